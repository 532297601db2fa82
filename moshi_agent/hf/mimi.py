"""`MimiModel` as Transformers has it, on our codec.

Where the two differ, this is the codec as it was trained (compared with transformers 4.57.6):

- its attention sees 250 positions (10 s) back; there, audio longer than that is attended to as a whole;
- audio that is no whole number of frames is filled up with silence before the first layer; there, each layer
  fills up what reaches it;
- streaming carries the state of every layer, the decoder's convolutions included.

On CUDA no step of a stream is captured as a graph here: a graph has one state, and here each call brings its
own, which is the caller's to copy or exchange. `model.codec.streaming(rows)` is a stream that is captured.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from moshi_agent.checkpoint.format import CheckpointFiles
from moshi_agent.checkpoint.models import fill_mimi
from moshi_agent.checkpoint.transformers.config import read_mimi_config
from moshi_agent.checkpoint.transformers.names import mimi_pairings, to_theirs
from moshi_agent.errors import InputError
from moshi_agent.hf.config_base import PretrainedConfig
from moshi_agent.hf.mimi_config import MimiConfig
from moshi_agent.hf.outputs import MimiDecoderOutput, MimiEncoderOutput, MimiOutput
from moshi_agent.hf.pretrained import PreTrainedModel
from moshi_agent.models import mimi as codecs
from moshi_agent.models.mimi import MimiState


class MimiModel(PreTrainedModel):
    """Encodes and decodes audio: the codec, with random weights unless it comes from `from_pretrained`.

    Raises:
        ConfigError: a configuration that our codec cannot have.
    """

    config_class = MimiConfig
    config: MimiConfig

    def __init__(self, config: MimiConfig, codec: codecs.MimiModel | None = None) -> None:
        super().__init__(config)
        self.codec = codec or codecs.MimiModel(read_mimi_config(config.to_dict())).eval()

    @classmethod
    def read(cls, config: PretrainedConfig, files: CheckpointFiles, dtype: torch.dtype) -> Self:
        assert isinstance(config, MimiConfig)
        return cls(config, fill_mimi(files.read_mimi_config(), files.read_mimi(), "cpu"))

    def theirs(self) -> dict[str, Tensor]:
        tensors = self.codec.state_dict()
        return to_theirs(mimi_pairings(tensors, self.codec.config.transformer), tensors)

    def new_cache(self, batch_size: int) -> MimiState:
        """Makes what a stream of so many rows begins with: `encoder_past_key_values` and the like."""
        return self.codec.init_state(batch_size)

    def get_encoded_length(self, input_length: Tensor) -> Tensor:
        """Returns the frames of codes for so many samples, [*] -> [*]."""
        return -(-input_length // self.codec.frame_size)

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Tells which frames hold audio. padding_mask: [B, samples] -> [B, frames] bool."""
        lengths = self.get_encoded_length(padding_mask.sum(dim=-1))
        mask = torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]
        return mask if padding_side == "right" else mask.flip(-1)

    @torch.no_grad()
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_past_key_values: MimiState | None = None,
        padding_cache: MimiState | None = None,
        use_streaming: bool | None = None,
        return_dict: bool | None = None,
    ) -> MimiEncoderOutput | tuple[Tensor | MimiState | None, ...]:
        """Encodes audio [B, channels, samples] -> codes [B, num_quantizers, frames].

        Args:
            padding_mask: accepted, and of no effect: what is padded comes last, and the codec is causal.
            num_quantizers: codebooks, by default all.
            encoder_past_key_values, padding_cache: the state of the stream that this goes on with, either of
                them.
            use_streaming: starts a stream, and returns its state as both; audio then comes in whole frames.

        Raises:
            InputError: audio of another shape, or more codebooks than there are.
        """
        total, count = self.config.num_quantizers, num_quantizers or self.config.num_quantizers
        if count > total:
            raise InputError(f"num_quantizers={num_quantizers}; accepted: up to {total}")
        self.codec.set_num_codebooks(count)
        state = encoder_past_key_values or padding_cache
        if state is None and (self.config.use_streaming if use_streaming is None else use_streaming):
            state = self.new_cache(len(input_values))
        codes = self._encode(input_values.to(self.codec.device, self.codec.dtype), state)
        output = MimiEncoderOutput(codes, state, state)
        return output if self.wants_dict(return_dict) else (codes, state, state)

    def _encode(self, audio: Tensor, state: MimiState | None) -> Tensor:
        if state is None:
            return self.codec.encode(audio)
        if audio.dim() != 3 or audio.shape[-1] % self.codec.frame_size:
            raise InputError(
                f"audio of shape {list(audio.shape)} in a stream; accepted: [B, {self.codec.channels}, T] in "
                f"whole frames of {self.codec.frame_size}"
            )
        return self.codec.quantizer.encode(self.codec.encode_latent(audio, state, None))

    def decode(
        self,
        audio_codes: Tensor,
        padding_mask: Tensor | None = None,
        decoder_past_key_values: MimiState | None = None,
        return_dict: bool | None = None,
    ) -> MimiDecoderOutput | tuple[Tensor | MimiState | None, ...]:
        """Decodes codes [B, num_quantizers, frames] -> audio [B, channels, samples].

        Args:
            padding_mask: [B, samples] or [B, channels, samples]; audio beyond its length is cut off.
            decoder_past_key_values: the state of a stream (`new_cache`).

        Raises:
            InputError: codes of another shape or out of range.
        """
        codes = audio_codes.to(self.codec.device)
        if decoder_past_key_values is None:
            audio = self.codec.decode(codes)
        else:
            audio = self.codec.decode_codes(codes, decoder_past_key_values, None)
        if padding_mask is not None:
            audio = audio[..., : padding_mask.shape[-1]]
        output = MimiDecoderOutput(audio, decoder_past_key_values)
        return output if self.wants_dict(return_dict) else (audio, decoder_past_key_values)

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
        encoder_past_key_values: MimiState | None = None,
        decoder_past_key_values: MimiState | None = None,
        return_dict: bool | None = None,
    ) -> MimiOutput | tuple[Tensor | MimiState | None, ...]:
        """Sends audio through the codes and back; its length stays. Arguments as of `encode` and `decode`."""
        mask = input_values if padding_mask is None else padding_mask
        if audio_codes is None:
            encoded = self.encode(
                input_values, mask, num_quantizers, encoder_past_key_values, return_dict=True
            )
            assert isinstance(encoded, MimiEncoderOutput)
            audio_codes, encoder_past_key_values = encoded.audio_codes, encoded.encoder_past_key_values
        assert audio_codes is not None
        decoded = self.decode(audio_codes, mask, decoder_past_key_values, return_dict=True)
        assert isinstance(decoded, MimiDecoderOutput)
        output = MimiOutput(
            audio_codes, decoded.audio_values, encoder_past_key_values, decoded.decoder_past_key_values
        )
        states = (encoder_past_key_values, decoder_past_key_values)
        return output if self.wants_dict(return_dict) else (audio_codes, decoded.audio_values, *states)

    def codes_of(self, input_values: Tensor, count: int) -> Tensor:
        """Encodes audio [B, channels, samples] -> the first `count` codebooks, [B, count, frames]."""
        output = self.encode(input_values, num_quantizers=count, return_dict=True)
        assert isinstance(output, MimiEncoderOutput) and output.audio_codes is not None
        return output.audio_codes

    def audio_of(self, audio_codes: Tensor) -> Tensor:
        """Decodes codes [B, K, frames] -> audio [B, channels, samples]."""
        output = self.decode(audio_codes, return_dict=True)
        assert isinstance(output, MimiDecoderOutput) and output.audio_values is not None
        return output.audio_values
