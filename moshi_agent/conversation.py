"""One conversation, frame by frame: the shortest way from audio in to audio and text out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.personas import Personas
from moshi_agent.engine.prompt.prompt import Prompt
from moshi_agent.errors import InputError
from moshi_agent.models.conditioning import Condition, choose_conditions
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.models.prefill import prefill
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.text.transcript import TimedWord, Transcript

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
        voice, role: of models that take them, as in `SessionConfig`.
        cfg_coef: classifier-free guidance, 1 being none; None is as the checkpoint advises. 3 brings the
            voice of a translation closer to the speaker's.
        conditions: of models that take some, by name. Translation models know theirs.

    Raises:
        ConfigError: a checkpoint that holds no conversation; a role or a voice that it does not take.
        InputError: conditions that are missing, or do not fit; guidance of a model without any; a role or a
            voice that is no good.
        AudioError: a voice that is silent or too short.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        greedy: bool = False,
        seed: int | None = None,
        greet: bool = False,
        voice: str | Path | NDArray[np.float32] | None = None,
        role: str | None = None,
        cfg_coef: float | None = None,
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        self._mimi, self._lm = checkpoint.mimi, checkpoint.conversation_lm()
        self._ends = checkpoint.ends
        self.is_done = False  # a translation that has been spoken to its end
        self._input_ended = False
        options = dict(checkpoint.lm_gen_config)
        options |= {"use_sampling": False} if greedy else {}
        options |= {} if cfg_coef is None else {"cfg_coef": cfg_coef}
        guided = options.get("cfg_coef", 1.0) != 1.0
        tensors = choose_conditions(self._lm, checkpoint.model_type, conditions, guided)
        self._generator = LMGen(self._lm, seed=seed, condition_tensors=tensors, **options)
        self._mimi_state = checkpoint.mimi.init_state(1)
        self._generator.streaming_forever(1)
        self._greet = greet
        self._frame = 0
        # What was said `max_delay` frames ago is only then complete; speech recognition is later still.
        delay_s = checkpoint.text_delay_s
        self._transcript = Transcript(checkpoint.tokenizer, checkpoint.mimi.frame_rate, delay_s)
        asked = SessionConfig(voice=voice, role=role, greet=greet)
        self._has_persona = asked.has_persona
        if self._has_persona:
            self._hear_prompt(Personas(checkpoint).prompt(asked))

    @property
    def translates(self) -> bool:
        """Whether the model is to be told of the end of what it hears, and says when it is done."""
        return self._ends is not None

    @property
    def text(self) -> str:
        """All that the model has said."""
        return self._transcript.text

    @property
    def words(self) -> list[TimedWord]:
        """All that the model has said, word by word, with times in seconds."""
        return self._transcript.words

    def stream(self, frames: Iterable[Frame | None]) -> Iterator[Reply]:
        """One reply for each frame, as the frames come. Raises InputError as `step` does."""
        for frame in frames:
            yield self.step(frame)

    def until_done(self, frames: Iterable[Frame], longest_tail_s: float = 60.0) -> Iterator[Frame | None]:
        """The frames of a speech, its end, and silence until its translation is done: for `stream`.

        Args:
            longest_tail_s: stops there, however much the model has still to say.
        """
        yield from frames
        for number in range(round(longest_tail_s * self._mimi.frame_rate)):
            if self.is_done:
                return
            yield np.zeros(self._mimi.frame_size, np.float32) if number else None

    @torch.inference_mode()
    def step(self, frame: Frame | None) -> Reply:
        """The model hears one frame and says one.

        Args:
            frame: float32 of `mimi.frame_size` samples, -1 to 1. None tells a translation model that
                all it has to translate has been said; silence is what follows.

        Raises:
            InputError: another length or type, or values that are no numbers; None for another model.
        """
        started = time.perf_counter()
        codes = self._end_of_input() if frame is None else self._encode(frame)
        is_first = self._frame == 0 and not self._has_persona
        tokens = self._first_step(codes) if is_first else self._generator.step(codes)
        audio, text = self._speak(tokens)
        reply = Reply(self._frame, audio, text, 1000 * (time.perf_counter() - started))
        self._frame += 1
        return reply

    @torch.inference_mode()
    def _hear_prompt(self, prompt: Prompt) -> None:
        """Reads a persona's prompt ahead; in its last step the model chooses what is not forced."""
        device, generated = self._lm.device, 1 + self._lm.dep_q
        tokens = torch.from_numpy(prompt.tokens).to(device)
        embeddings = None if prompt.embeddings is None else torch.from_numpy(prompt.embeddings).to(device)
        prefill(self._generator, self._generator.streaming_state, tokens[:-1], embeddings)
        last = tokens[-1:, :, None]
        self._generator.step(last[:, generated:], forced_tokens=last[:, :generated])
        # Heard by nobody, and yet the sound that the first frame follows.
        self._speak(self._generator.ring.newest_frame(self._generator.streaming_state.ring, None))

    def _encode(self, frame: Frame) -> Tensor:
        """[samples of one frame] -> [1, K, 1]."""
        latent = self._mimi.encode_latent(self._check(frame), self._mimi_state, None)
        return self._mimi.quantizer.encode(latent)

    def _end_of_input(self) -> Tensor:
        """The codes that say so, [1, K, 1]: the one beyond the codec's own, which hears nothing of it."""
        if self._ends is None:
            raise InputError("this model is not told of an end; accepted: frames")
        self._input_ended = True
        return torch.full((1, self._ends.codebooks, 1), self._ends.code, device=self._mimi.device)

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
        token = int(tokens[0, 0, 0])
        text = self._transcript.add(token, self._frame - self._lm.config.max_delay + 1)
        self.is_done |= self._input_ended and self._ends is not None and token == self._ends.text_token
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
