"""What the bot says, frame by frame: its sound, its text, and its words with their times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, Frame
from moshi_agent.audio.speech_gate import SpeechGate
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.step.step_tensors import RowOutput
from moshi_agent.text.pieces import is_text
from moshi_agent.text.word_tracker import TimedWord, WordTracker

_FLOOR_DBFS = -55.0  # what counts as nothing


@dataclass(frozen=True, slots=True)
class Spoken:
    """Tells what the bot does in one frame."""

    pcm: Frame  # [1920] its sound; zeros where it has none
    gated: Frame  # [1920] the same, and exactly zero where it is under the floor
    is_audible: bool
    text: str  # what it writes now, and says `max_delay` frames later
    words: list[TimedWord]  # that are complete now


class BotSpeech:
    """Follows what the bot of one conversation says.

    Args:
        model: whose text and delays these are.
        floor_dbfs: the level under which it says nothing, as in `SpeechGate`.
    """

    def __init__(self, model: Model, floor_dbfs: float = _FLOOR_DBFS) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self._max_delay = model.max_delay
        self._delay_s = model.delay_s
        self._gate = SpeechGate(floor_dbfs=floor_dbfs)
        self._words = WordTracker(model.tokenizer, FRAME_S)

    def aligned_frame(self, frame: int) -> int:
        """Tells the frame in which the model says what it writes in `frame`."""
        return frame + self._max_delay

    def begin(self, output: RowOutput, frame: int) -> str:
        """Takes the output of the model's own first step, which goes before `frame`.

        Returns:
            The text written in it, which is said from `frame` on; "" for most.
        """
        return self._write(output.next_text, frame - 1) if self._max_delay else ""

    def follow(self, output: RowOutput, frame: int) -> Spoken:
        """Takes the output of the step of `frame`."""
        pcm = output.audio if output.audio is not None else np.zeros(FRAME_SAMPLES, np.float32)
        said = self.written(output.text)
        has_text = self._tokenizer is not None and is_text(self._tokenizer, said)
        gated = self._gate.process(pcm, has_text)
        text = self._write(output.next_text, frame)
        words = self._shifted(self._words.hear(frame, gated.is_open))
        return Spoken(pcm, gated.pcm, gated.is_open, text, words)

    def written(self, token: int) -> int:
        """Returns a token as it is written: one that asks for a reference writes nothing, as padding."""
        return self._model.text_padding if token == self._model.reference_token else token

    def _write(self, token: int, frame: int) -> str:
        return self._words.add(self.written(token), self.aligned_frame(frame))

    def unfinished(self, frame: int) -> list[TimedWord]:
        """Lists the words that have begun before `frame` and are not complete, as if they ended there."""
        return self._shifted(self._words.unfinished(frame))

    def finish(self, frame: int) -> list[TimedWord]:
        """Ends before `frame`. Returns the words not yet given that have begun by then."""
        return self._shifted(self._words.finish(frame))

    def _shifted(self, words: list[TimedWord]) -> list[TimedWord]:
        """At the times of what they are about: the text may be later."""
        return [TimedWord(word.word, self._time(word.start), self._time(word.end)) for word in words]

    def _time(self, written_s: float) -> float:
        return round(max(0.0, written_s - self._delay_s), 6)

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, as plain numbers and lists."""
        return {"gate": self._gate.save(), "words": self._words.save()}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        self._gate.load(saved["gate"])
        self._words.load(saved["words"])
