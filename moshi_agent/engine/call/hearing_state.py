"""The host's side of a call to a recogniser, which hears one speaker and writes down what is said."""

from __future__ import annotations

from typing import Any

import numpy as np

from moshi_agent.audio.framing import FRAME_SAMPLES
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.call.call_state import CallFrame, CallState
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.call.opening import PromptFrame, PromptStep
from moshi_agent.engine.call.stamp import Stamp
from moshi_agent.engine.commands import InputFrame, Key, Say
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.event_queue import Outlet
from moshi_agent.engine.schedule.scheduler import Ready
from moshi_agent.engine.step.frame_step import RowInput, RowOutput
from moshi_agent.errors import InputError
from moshi_agent.events import Event, UserPaused
from moshi_agent.text.timed_reader import PauseConfig, TimedReader

_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
_SHORT_PAUSE_S = 0.5  # the shortest that the models foretell: early enough to begin an answer


class HearingState(CallState):
    """One call, from the frames it brings to the words of its speaker.

    Raises:
        InputError: a prompt, a voice or anything else that is for a model that speaks.
    """

    def __init__(
        self, key: Key, config: SessionConfig, sampling: SamplingConfig, model: Model, outlet: Outlet
    ) -> None:
        if config.prompt is not None or config.greet or config.has_persona or config.asking is not None:
            raise InputError("a recogniser takes no prompt, voice, role, greeting or asking: it only hears")
        super().__init__(key, config, sampling, model, outlet)
        assert model.hearing is not None
        short = PauseConfig(horizon_s=_SHORT_PAUSE_S)
        self._short_pauses = TimedReader(model.hearing.tokenizer, model.hearing.delay_s, pauses=short)

    def opening(self) -> list[PromptStep]:
        """Returns the steps before the first frame: the model's own first one, and silence."""
        silence = PromptFrame(None, True, of_prompt=False)
        return [PromptFrame(None, False, of_prompt=False), *[silence] * self._model.silent_frames]

    def say(self, asked: Say) -> None:
        """Raises InputError: nobody speaks here."""
        raise InputError("a recogniser says nothing: it only hears")

    def hold(self, seconds: float) -> None:
        """Raises InputError: there is nobody to be held."""
        raise InputError("a recogniser says nothing that it could be kept from")

    def row_input(self, row: int, ready: Ready[Key, CallFrame]) -> RowInput:
        """Returns what the row is given."""
        frame = ready.frame
        if isinstance(frame, PromptFrame):
            return frame.row_input(row)
        return RowInput(row=row, pcm=frame.pcm if isinstance(frame, InputFrame) else _SILENCE)

    def deliver(
        self, output: RowOutput, ready: Ready[Key, CallFrame], now: float, wall_s: float, backlog_s: float
    ) -> None:
        """Turns the output of a step into events and hands them out; as `CallState.deliver`."""
        frame = ready.frame
        if isinstance(frame, PromptFrame):
            return
        assert self._user_words is not None
        stamp = Stamp(self.frame, wall_s)
        self._user_speaking = isinstance(frame, InputFrame) and frame.speaking
        events = [
            *self._input_events(ready, stamp),
            *self._turn_events(stamp),
            *self._short_pause(output, stamp),
            *self._user_words.follow(output, self._user_speaking, stamp),
        ]
        if self._is_tail(frame):
            self._tail.follow(output.text)
        self._count(ready, now, backlog_s)
        self.frame += 1
        self._hand_out(events, inputs_taken=ready.skipped + isinstance(frame, InputFrame))

    def heard(self, ready: Ready[Key, CallFrame]) -> None:
        """Returns None: there is no other recogniser beside this one."""

    def _short_pause(self, output: RowOutput, stamp: Stamp) -> list[Event]:
        pause = self._short_pauses.read(stamp.frame, output.next_text, output.heads).pause
        if pause is None:
            return []
        probability = round(pause.probability, 3)
        return [stamp.event(UserPaused, probability=probability, horizon_s=_SHORT_PAUSE_S)]

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on."""
        return {**super().save(), "short_pauses": self._short_pauses.save()}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        super().load(saved)
        self._short_pauses.load(saved["short_pauses"])
