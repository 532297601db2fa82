"""One conversation, frame by frame: the shortest way from audio in to audio and text out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.errors import ConfigError, InputError
from moshi_agent.models.generation import LMGen
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.conditioners import ConditionAttributes, ConditionTensors
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.transcript import TimedWord, Transcript

if TYPE_CHECKING:
    from moshi_agent.checkpoint import Checkpoint

Frame = NDArray[np.float32]  # [samples of one frame], 24 kHz mono, -1 to 1

_BEGIN_OF_TEXT = 1  # forced into the first frame, it asks a model that was trained so to greet


@dataclass(frozen=True)
class Reply:
    """What the model says in one frame."""

    frame: int
    audio: Frame
    text: str  # the piece of text that begins in this frame; "" for most
    step_ms: float  # wall time from the frame's arrival to its reply


class Conversation:
    """A conversation with a checkpoint: one reply for each frame of the caller.

    Args:
        checkpoint: from `load_checkpoint`.
        greedy: takes the best token everywhere; else samples as the checkpoint advises.
        seed: of the sampling; None draws one.
        greet: asks the model to speak first.

    Raises:
        ConfigError: no language model, or one that needs conditions this class cannot give.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, greedy: bool = False, seed: int | None = None, greet: bool = False
    ) -> None:
        if checkpoint.lm is None:
            raise ConfigError(f"{checkpoint.name} holds a codec alone; a conversation needs a language model")
        self._mimi, self._lm = checkpoint.mimi, checkpoint.lm
        self._generator = LMGen(
            checkpoint.lm,
            use_sampling=not greedy,
            seed=seed,
            condition_tensors=_conditions(checkpoint.lm, checkpoint.model_type),
            **checkpoint.lm_gen_config,
        )
        self._mimi_state = checkpoint.mimi.init_state(1)
        self._generator.streaming_forever(1)
        self._greet = greet
        self._frame = 0
        # What was said `max_delay` frames ago is only then complete; speech recognition is later still.
        delay_s = float(checkpoint.stt_config.get("audio_delay_seconds", 0.0))
        self._transcript = Transcript(checkpoint.tokenizer, checkpoint.mimi.frame_rate, delay_s)

    @property
    def text(self) -> str:
        """All that the model has said."""
        return self._transcript.text

    @property
    def words(self) -> list[TimedWord]:
        """All that the model has said, word by word, with times in seconds."""
        return self._transcript.words

    def stream(self, frames: Iterable[Frame]) -> Iterator[Reply]:
        """One reply for each frame, as the frames come. Raises InputError for a frame of another form."""
        for frame in frames:
            yield self.step(frame)

    @torch.inference_mode()
    def step(self, frame: Frame) -> Reply:
        """The model hears one frame and says one.

        Args:
            frame: float32 of `mimi.frame_size` samples, -1 to 1.

        Raises:
            InputError: another length or type, or values that are no numbers.
        """
        started = time.perf_counter()
        pcm = self._check(frame)
        latent = self._mimi.encode_latent(pcm, self._mimi_state, None)
        codes = self._mimi.quantizer.encode(latent)  # [1, K, 1]
        tokens = self._first_step(codes) if self._frame == 0 else self._generator.step(codes)
        audio, text = self._speak(tokens)
        reply = Reply(self._frame, audio, text, 1000 * (time.perf_counter() - started))
        self._frame += 1
        return reply

    def _first_step(self, codes: Tensor) -> Tensor | None:
        # The model's own first step reads initial tokens only; heard twice, the first frame is not lost.
        forced = None
        if self._greet:
            forced = torch.full((1, 1 + self._lm.dep_q, 1), UNGENERATED_TOKEN, device=codes.device)
            forced[:, 0] = _BEGIN_OF_TEXT
        first = self._generator.step(codes, forced_tokens=forced)
        assert first is None or self._lm.config.max_delay == 0
        return self._generator.step(codes)

    def _speak(self, tokens: Tensor | None) -> tuple[Frame, str]:
        """tokens: [1, 1 + dep_q, 1] -> one frame of audio, and the text that begins in it."""
        silence: Frame = np.zeros(self._mimi.frame_size, dtype=np.float32)
        if tokens is None:
            return silence, ""
        text = self._transcript.add(int(tokens[0, 0, 0]), self._frame - self._lm.config.max_delay + 1)
        if not self._lm.dep_q:
            return silence, text
        codes = tokens[:, 1 : 1 + self._mimi.num_codebooks]
        if int(codes.max()) >= self._mimi.cardinality:
            return silence, text
        return self._mimi.decode_codes(codes, self._mimi_state, None)[0, 0].cpu().numpy(), text

    def _check(self, frame: Frame) -> Tensor:
        size = self._mimi.frame_size
        if frame.shape != (size,) or frame.dtype != np.float32:
            raise InputError(
                f"a frame of shape {list(frame.shape)} and type {frame.dtype}; accepted: [{size}] float32"
            )
        if not np.isfinite(frame).all():
            raise InputError("a frame with NaN or infinite values; accepted: finite samples")
        return torch.from_numpy(frame).to(self._mimi.device)[None, None]


def _conditions(lm: LMModel, model_type: str) -> ConditionTensors | None:
    """What the published translation models are told; other conditions have to be given by the caller."""
    provider = lm.condition_provider
    if provider is None:
        return None
    if model_type != "hibiki":
        raise ConfigError(
            f"a model of type {model_type!r} needs conditions: use LMGen(condition_tensors=...)"
        )
    return provider.prepare_and_provide([ConditionAttributes(text={"description": "very_good"})])
