"""One conversation, frame by frame: the shortest way from audio in to audio and text out."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from moshi_agent.audio.framing import Frame
from moshi_agent.config import KVCache, SamplingConfig
from moshi_agent.engine.call.bot_speech import BotSpeech
from moshi_agent.engine.call.model import model_of
from moshi_agent.engine.call.opening import PrefillFrame, opening_frames
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.personas import Personas
from moshi_agent.engine.prompt.prompt import Prompt
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.engine.step.step_check import check_graphs
from moshi_agent.errors import EngineUnhealthy, InputError, MoshiAgentError
from moshi_agent.models.conditioning import Condition
from moshi_agent.text.word_tracker import TimedWord

if TYPE_CHECKING:
    from moshi_agent.checkpoint import Checkpoint

_log = logging.getLogger("moshi_agent")
_ROW = 0
_GREEDY = SamplingConfig(greedy=True)


@dataclass(frozen=True)
class Reply:
    """Holds what the model says in one frame."""

    frame: int
    audio: Frame
    text: str  # the piece of text that begins in this frame; "" for most
    step_ms: float  # wall time from the frame's arrival to its reply


class Conversation:
    """Converses with a checkpoint: one reply for each frame of the caller.

    Args:
        checkpoint: from `load_checkpoint`.
        greedy: takes the best token everywhere; else samples as the checkpoint advises.
        seed: of the sampling; None draws one.
        greet: asks the model to speak first.
        voice, role: of models that take them, as in `SessionConfig`.
        cfg_coef: classifier-free guidance, 1 being none; None is as the checkpoint advises. 3 brings the
            voice of a translation closer to the speaker's.
        conditions: of models that take some, by name. Translation models know theirs.
        kv_cache, cuda_graphs: as in `EngineConfig`.

    Raises:
        ConfigError: a checkpoint that holds no conversation; a role or a voice that it does not take.
        InputError: conditions that are missing, or do not fit; guidance of a model without any; a role or a
            voice that is no good.
        AudioError: a voice that is silent or too short.
        DeviceFull: the device has no room for a conversation.
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
        kv_cache: KVCache = "auto",
        cuda_graphs: bool = True,
    ) -> None:
        self._model = model_of(checkpoint)
        config = SessionConfig(
            sampling=_GREEDY if greedy else None, seed=seed, greet=greet, voice=voice, role=role
        )
        drawn_seed = int(torch.randint(2**62, ()))
        self._sampling = config.sampling_or(checkpoint.advised_sampling, drawn_seed)
        self._step = FrameStep(
            checkpoint,
            rows=1,
            conditions=conditions,
            cfg_coef=cfg_coef,
            kv_cache=kv_cache,
            graphs=cuda_graphs,
        )
        self._speech = BotSpeech(self._model)
        self._frame = 0
        self._unsaid = deque([""] * self._model.max_delay)  # text of the frames to come
        self._text = ""
        self._words: list[TimedWord] = []  # that are complete
        self._input_ended = False
        self.is_done = False  # a translation that has been spoken to its end
        self._capture()
        self._begin(Personas(checkpoint).prompt(config) if config.has_persona else None, greet)

    @property
    def translates(self) -> bool:
        """Whether the model is to be told of the end of what it hears, and says when it is done."""
        return self._model.ends is not None

    @property
    def text(self) -> str:
        """Returns all that the model has said."""
        return self._text.strip()

    @property
    def words(self) -> list[TimedWord]:
        """Returns all that the model has said, word by word, with times in seconds.

        A word ends where the next one begins or where the model falls silent, and a second after its start at
        the latest; a word that has no end yet lasts until now.
        """
        return [*self._words, *self._speech.unfinished(self._frame)]

    def stream(self, frames: Iterable[Frame | None]) -> Iterator[Reply]:
        """Gives one reply for each frame, as the frames come. Raises InputError as `step` does."""
        for frame in frames:
            yield self.step(frame)

    def until_done(self, frames: Iterable[Frame], longest_tail_s: float = 60.0) -> Iterator[Frame | None]:
        """Gives `stream` a speech, its end, and silence until its translation is done.

        Args:
            longest_tail_s: stops there, however much the model has still to say.
        """
        yield from frames
        for number in range(round(longest_tail_s * self._step.mimi.frame_rate)):
            if self.is_done:
                return
            yield np.zeros(self._step.mimi.frame_size, np.float32) if number else None

    def step(self, frame: Frame | None) -> Reply:
        """Lets the model hear one frame, and returns the one that it says.

        Args:
            frame: float32 of `mimi.frame_size` samples, -1 to 1. None tells a translation model that
                all it has to translate has been said; silence is what follows.

        Raises:
            InputError: another length or type, or values that are no numbers; None for another model.
            EngineUnhealthy: what the model gives is not a number any more.
        """
        started = time.perf_counter()
        given = self._end_of_input() if frame is None else RowInput(row=_ROW, pcm=self._checked(frame))
        [output] = self._step.run([given])
        audio, text = self._take(output)
        reply = Reply(self._frame, audio, text, 1000 * (time.perf_counter() - started))
        self._frame += 1
        return reply

    def _capture(self) -> None:
        """Captures the step where it can be; one conversation has time enough without, where it cannot."""
        try:
            check_graphs(self._step)
        except MoshiAgentError as refusal:
            _log.warning("every kernel is launched by itself, which is slower: %s", refusal)
            self._step.give_up_graphs()

    def _begin(self, prompt: Prompt | None, greet: bool) -> None:
        """Takes the steps before the first frame, those of a prompt without chance: as an engine does."""
        self._step.begin_row(_ROW, self._sampling if prompt is None else _GREEDY)
        for frame in opening_frames(prompt, greet, self._model.num_streams, self._model.most_positions):
            if isinstance(frame, PrefillFrame):
                self._step.prefill(_ROW, frame.tokens, frame.embeddings)
                continue
            [output] = self._step.run([frame.row_input(_ROW)])
            if self._unsaid and not frame.of_prompt:
                self._unsaid[-1] = self._speech.begin(output, self._frame)
        self._step.set_sampling(_ROW, self._sampling)

    def _take(self, output: RowOutput) -> tuple[Frame, str]:
        """The audio of this frame, and the text that begins in it."""
        if not output.healthy:
            raise EngineUnhealthy("what the model gives is not a number any more; begin another conversation")
        spoken, ends = self._speech.follow(output, self._frame), self._model.ends
        self._unsaid.append(spoken.text)
        text = self._unsaid.popleft()
        self._text += text
        self._words += spoken.words
        self.is_done |= self._input_ended and ends is not None and output.text == ends.text_token
        return spoken.pcm, text

    def _end_of_input(self) -> RowInput:
        if self._model.ends is None:
            raise InputError("this model is not told of an end; accepted: frames")
        self._input_ended = True
        return RowInput(row=_ROW, pcm=None, forced=self._model.ends.tokens(self._model.num_streams))

    def _checked(self, frame: Frame) -> Frame:
        size = self._step.mimi.frame_size
        if frame.shape != (size,) or frame.dtype != np.float32:
            raise InputError(
                f"a frame of shape {list(frame.shape)} and type {frame.dtype}; accepted: [{size}] float32"
            )
        if not np.isfinite(frame).all():
            raise InputError("a frame with NaN or infinite values; accepted: finite samples")
        return frame
