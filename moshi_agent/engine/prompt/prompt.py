"""What is forced upon the model before a conversation: tokens, frame by frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from moshi_agent.audio.framing import Samples, mono_float32
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.own_precision import own_precision
from moshi_agent.nn.side_stream import side_stream
from moshi_agent.text.pieces import pieces_of


@dataclass(frozen=True)
class Prompt:
    """Holds the frames that are forced before a conversation.

    Attributes:
        tokens: [frames, 1 + n_q] int64, text first, then the bot's and the user's codes; -2 leaves a
            token to the model, or to the silence that the user's side then holds. Frames in which no token
            is left are taken many at once, without the codec.
        embeddings: [up to frames, dim], what the temporal transformer reads in the first frames in place of
            the tokens before them.
        is_whole: the first frame is the model's own first step, which otherwise goes before the prompt; and
            the codec hears nothing of the prompt.
    """

    tokens: NDArray[np.int64] = field(repr=False, compare=False)
    embeddings: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    is_whole: bool = False
    digest: str = field(init=False)  # two prompts are the same if what they force is

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.dtype != np.int64 or not len(self.tokens):
            raise ConfigError(
                f"prompt tokens of shape {list(self.tokens.shape)} and type {self.tokens.dtype}; "
                "accepted: [frames, 1 + n_q] int64 with at least one frame"
            )
        digest = hashlib.sha256(repr((self.tokens.shape, self.is_whole)).encode() + self.tokens.tobytes())
        if self.embeddings is not None:
            digest.update(self.embeddings.tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())


@dataclass(frozen=True)
class Recording:
    """Holds a voice's sound instead of its file. Raises AudioError for what is no audio."""

    samples: Samples = field(repr=False, compare=False)  # [N] float32 at 24 kHz
    digest: str = field(init=False)  # two recordings are the same if their samples are

    def __post_init__(self) -> None:
        samples = np.ascontiguousarray(mono_float32(self.samples))
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "digest", hashlib.sha256(samples.tobytes()).hexdigest())


@dataclass(frozen=True)
class PromptSource:
    """What a prompt is made from."""

    text: str | None = None
    audio: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)  # [N] at 24 kHz


@own_precision()
@torch.inference_mode()
def compile_prompt(source: PromptSource, checkpoint: Checkpoint) -> Prompt:
    """Makes a prompt's tokens: text from the first frame on, one piece a frame, over the bot's own audio.

    Raises:
        ConfigError: neither text nor audio, or a checkpoint that has no use for them.
        InputError: text that the tokenizer has no pieces for.
    """
    lm = checkpoint.lm
    if lm is None or not lm.dep_q:
        raise ConfigError(f"{checkpoint.name} does not speak: it takes no prompt")
    pieces = [] if source.text is None else pieces_of(checkpoint.tokenizer, source.text)
    codes = np.empty((lm.dep_q, 0), np.int64)
    if source.audio is not None:
        codes = encode_aside(checkpoint.mimi, mono_float32(source.audio))
    frames = max(len(pieces), codes.shape[1])
    if not frames:
        raise ConfigError("a prompt needs text or audio")
    tokens = np.full((frames, lm.num_codebooks), UNGENERATED_TOKEN)
    tokens[:, 0] = lm.text_padding_token_id
    tokens[: len(pieces), 0] = pieces
    for codebook, delay in zip(range(min(lm.dep_q, len(codes))), lm.delays[1:], strict=False):
        kept = codes[codebook, : frames - delay]
        tokens[delay : delay + len(kept), 1 + codebook] = kept
    return Prompt(tokens)


@torch.inference_mode()
def encode_aside(mimi: MimiModel, samples: Samples) -> NDArray[np.int64]:
    """Encodes a recording, [N] at 24 kHz, beside the steps -> [codebooks, frames], the last one filled up."""
    with side_stream(mimi.device):
        pcm = torch.from_numpy(samples).to(mimi.device)
        pcm = F.pad(pcm, (0, -len(samples) % mimi.frame_size))[None, None]
        return mimi.quantizer.encode(mimi.encode_latent(pcm, None, None))[0].cpu().numpy()
