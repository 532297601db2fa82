"""Mimi, the streaming codec: 24 kHz audio to 12.5 frames of codes a second, and back.

The way of a signal: SEANet encoder (25 Hz) -> transformer -> downsampling (12.5 Hz) -> quantizer,
and the same backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.config import MimiConfig
from moshi_agent.errors import InputError
from moshi_agent.nn.captured_step import CapturedStep
from moshi_agent.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState
from moshi_agent.nn.packing import PackFormat
from moshi_agent.nn.quantizer import SplitQuantizer
from moshi_agent.nn.seanet import Stack, StackState, seanet_decoder, seanet_encoder
from moshi_agent.nn.state import State
from moshi_agent.nn.streaming import Streaming
from moshi_agent.nn.transformer import ProjectedTransformer, TransformerState

_CHUNK_FRAMES = 12  # of a long signal on a CPU, whose caches they fit
_CHUNK_FRAMES_ON_CUDA = 125  # beside full caches of conversations there may be a gigabyte left


@dataclass
class MimiState(State):
    encoder: StackState
    encoder_transformer: TransformerState
    downsample: ConvState
    upsample: ConvState
    decoder_transformer: TransformerState
    decoder: StackState


class MimiModel(nn.Module, Streaming[MimiState]):
    """Encodes and decodes whole signals, or inside `streaming` the next frames of each row: the codec."""

    def __init__(self, config: MimiConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MimiConfig()
        dimension, stride = config.seanet.dimension, config.resample_stride
        self.encoder: Stack = seanet_encoder(config.seanet)
        self.encoder_transformer = ProjectedTransformer(config.transformer, dimension)
        self.downsample = CausalConv1d(
            dimension, dimension, 2 * stride, stride=stride, bias=False, pad_mode="replicate"
        )
        self.quantizer = SplitQuantizer(config.quantizer)
        self.upsample = CausalConvTranspose1d(
            dimension, dimension, 2 * stride, stride=stride, bias=False, depthwise=True
        )
        self.decoder_transformer = ProjectedTransformer(config.transformer, dimension)
        self.decoder: Stack = seanet_decoder(config.seanet)
        self._encode_step: CapturedStep | None = None  # of one frame; None where nothing is captured
        self._decode_step: CapturedStep | None = None
        # Weights may be packed away; this stays and tells where and what they are.
        self._like: Tensor
        self.register_buffer("_like", torch.empty(0, dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.config.frame_rate

    @property
    def frame_size(self) -> int:
        """Returns the samples in one frame."""
        return self.config.frame_size

    @property
    def cardinality(self) -> int:
        """Returns the entries of each codebook."""
        return self.config.quantizer.bins

    @property
    def total_codebooks(self) -> int:
        return self.config.quantizer.n_q

    @property
    def num_codebooks(self) -> int:
        """Returns the codebooks in use."""
        return self.quantizer.num_codebooks

    def set_num_codebooks(self, n: int) -> None:
        """Sets how many codebooks `encode` returns. Raises InputError outside 1 to `total_codebooks`."""
        self.quantizer.set_num_codebooks(n)
        self._capture_steps()

    def streaming_forever(self, batch_size: int) -> None:
        """Attaches a fresh state for `batch_size` streams."""
        super().streaming_forever(batch_size)
        self._capture_steps()

    def stop_streaming(self) -> None:
        """Drops the attached state."""
        super().stop_streaming()
        self._capture_steps()

    def _capture_steps(self) -> None:
        """Begins anew to capture, or ends it: graphs know stream, codebooks and where weights lie."""
        self._encode_step, self._decode_step = self._captured(self._encoded), self._captured(self._decoded)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # pyright: ignore
        super()._apply(fn, recurse)
        self._capture_steps()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._capture_steps()

    def init_state(self, rows: int) -> MimiState:
        """Makes the state of `rows` streams."""
        where = (rows, self.device, self.dtype)
        return MimiState(
            self.encoder.init_state(*where),
            self.encoder_transformer.init_state(*where),
            self.downsample.init_state(*where),
            self.upsample.init_state(*where),
            self.decoder_transformer.init_state(*where),
            self.decoder.init_state(*where),
        )

    def pack(self, pack_format: PackFormat = "float32") -> None:
        """Packs every weight for inference on the CPU; the plain weights are released.

        The codebooks in use are packed as well: set their number before.
        """
        self.encoder_transformer.pack(pack_format)
        self.decoder_transformer.pack(pack_format)
        self.quantizer.pack(pack_format)
        for part in (self.encoder, self.downsample, self.upsample, self.decoder):
            part.pack(pack_format)

    def encode(self, x: Tensor) -> Tensor:
        """Encodes audio [B, channels, T] -> codes [B, K, frames].

        Offline, T is padded to whole frames. Inside `streaming` it must be whole frames.

        Raises:
            InputError: another shape or type, or a partial frame while streaming.
        """
        if self._encode_step is not None and x.shape[-1] == self.frame_size and not torch.is_grad_enabled():
            self._check_audio(x)
            return self._encode_step(self._exec_mask, x)[0]
        return self.quantizer.encode(self._latent(x))

    def _encoded(self, exec_mask: Tensor, x: Tensor) -> tuple[Tensor]:
        return (self.quantizer.encode(self.encode_latent(x, self._stream, exec_mask)),)

    def encode_to_latent(self, x: Tensor, quantize: bool = True) -> Tensor:
        """Encodes audio [B, channels, T] -> latents [B, dimension, frames], quantized or not.

        Raises:
            InputError: as for `encode`.
        """
        latent = self._latent(x)
        if quantize:
            latent = self.quantizer.decode(self.quantizer.encode(latent))
        return latent.transpose(1, 2)

    def decode(self, codes: Tensor) -> Tensor:
        """Decodes codes [B, K, frames] -> audio [B, channels, T].

        While streaming, a row that holds a negative code (a token that has not been generated) is
        left as it is and its audio is silence.

        Raises:
            InputError: another shape or type, or a code out of range.
        """
        self._check_codes(codes)
        state, exec_mask = self._stream, self._exec_mask
        if state is None:
            return self.decode_codes(codes, None, None)
        if self._decode_step is not None and codes.shape[-1] == 1 and not torch.is_grad_enabled():
            return self._decode_step(exec_mask, codes)[0]
        ready = (codes >= 0).flatten(1).all(dim=1)
        if codes.is_cuda or not bool(ready.all()):
            exec_mask = ready if exec_mask is None else ready & exec_mask
            audio = self.decode_codes(codes.clamp(min=0), state, exec_mask)
            return torch.where(ready.view(-1, 1, 1), audio, 0)
        return self.decode_codes(codes, state, exec_mask)

    def _decoded(self, exec_mask: Tensor, codes: Tensor) -> tuple[Tensor]:
        ready = (codes >= 0).flatten(1).all(dim=1)
        audio = self.decode_codes(codes.clamp(min=0), self._stream, ready & exec_mask)
        return (torch.where(ready.view(-1, 1, 1), audio, 0),)

    def decode_latent(self, codes: Tensor) -> Tensor:
        """Turns codes [B, K, frames] into latents [B, dimension, frames]. Raises InputError as `decode`."""
        self._check_codes(codes)
        return self.quantizer.decode(codes).transpose(1, 2)

    def _latent(self, x: Tensor) -> Tensor:
        self._check_audio(x)
        if self._stream is None:
            x = F.pad(x, (0, -x.shape[-1] % self.frame_size))
        return self.encode_latent(x, self._stream, self._exec_mask)

    def encode_latent(self, x: Tensor, state: MimiState | None, exec_mask: Tensor | None) -> Tensor:
        """Encodes audio [B, channels, T] -> latents before the quantizer, [B, frames, dimension]."""
        y = self._convolve(
            self.encoder, x.transpose(1, 2), self.frame_size, state and state.encoder, exec_mask
        )
        y = self.encoder_transformer(y, state and state.encoder_transformer, exec_mask)
        return self.downsample(y, state and state.downsample, exec_mask)

    def decode_codes(self, codes: Tensor, state: MimiState | None, exec_mask: Tensor | None) -> Tensor:
        """Decodes codes [B, K, frames], all of them valid -> audio [B, channels, T]."""
        return self.decode_quantized(self.quantizer.decode(codes), state, exec_mask)

    def decode_quantized(self, latent: Tensor, state: MimiState | None, exec_mask: Tensor | None) -> Tensor:
        """Decodes latents [B, frames, dimension] -> audio [B, channels, T]."""
        y = self.upsample(latent, state and state.upsample, exec_mask)
        y = self.decoder_transformer(y, state and state.decoder_transformer, exec_mask)
        stride = self.config.resample_stride
        return self._convolve(self.decoder, y, stride, state and state.decoder, exec_mask).transpose(1, 2)

    def _convolve(
        self,
        stack: Stack,
        x: Tensor,
        steps_per_frame: int,
        state: StackState | None,
        exec_mask: Tensor | None,
    ) -> Tensor:
        """[B, T, C] -> [B, T', C']. A long signal goes through in chunks."""
        steps = steps_per_frame * (_CHUNK_FRAMES_ON_CUDA if x.is_cuda else _CHUNK_FRAMES)
        if state is not None or torch.is_grad_enabled() or x.shape[1] <= steps:
            return stack(x, state, exec_mask)
        state = stack.init_state(len(x), x.device, x.dtype)
        return torch.cat([stack(chunk, state) for chunk in x.split(steps, dim=1)], dim=1)

    def _check_audio(self, x: Tensor) -> None:
        accepted = f"[B, {self.channels}, T] of {self.dtype}"
        if x.dim() != 3 or x.shape[1] != self.channels or not x.shape[2] or x.dtype != self.dtype:
            raise InputError(f"audio of shape {list(x.shape)} and type {x.dtype}; accepted: {accepted}")
        if self._stream is None:
            return
        if x.shape[0] != self._batch_size:
            raise InputError(f"audio of {x.shape[0]} rows; this stream was opened with {self._batch_size}")
        if x.shape[2] % self.frame_size:
            raise InputError(
                f"a chunk of {x.shape[2]} samples; accepted in a stream: whole frames of {self.frame_size}"
            )

    def _check_codes(self, codes: Tensor) -> None:
        total = self.total_codebooks
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= total or codes.dtype != torch.long:
            raise InputError(
                f"codes of shape {list(codes.shape)} and type {codes.dtype}; accepted: "
                f"[B, 1 to {total}, frames] of torch.int64"
            )
        if self._stream is not None and codes.shape[0] != self._batch_size:
            raise InputError(
                f"codes of {codes.shape[0]} rows; this stream was opened with {self._batch_size}"
            )
        if codes.is_cuda:
            return  # looking at the values would wait for the device
        least = -2 if self._stream is not None else 0
        if codes.numel() and not (least <= int(codes.min()) and int(codes.max()) < self.cardinality):
            raise InputError(
                f"codes from {int(codes.min())} to {int(codes.max())}; accepted: 0 to {self.cardinality - 1}"
            )
