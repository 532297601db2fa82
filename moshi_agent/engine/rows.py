"""The rows of a frame step: whose they are, and how conversations begin, move and leave in them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from moshi_agent.audio.framing import FRAME_SAMPLES
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.call.call_state import CallState
from moshi_agent.engine.call.opening import (
    OpeningFrame,
    PrefillFrame,
    PromptStep,
    RecallFrame,
    check_opening,
    recall_frames,
)
from moshi_agent.engine.commands import Key
from moshi_agent.engine.schedule.slots import Slots
from moshi_agent.engine.snapshot import Snapshot
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.engine.step.memory import PROMPT_BYTES
from moshi_agent.engine.step.recogniser_step import RecogniserStep
from moshi_agent.engine.step.saved_row import SavedRow
from moshi_agent.errors import DeviceFull, InputError
from moshi_agent.models.prefill import MOST_POSITIONS
from moshi_agent.nn.device_errors import memory_for

_log = logging.getLogger("moshi_agent.engine")
_MOST_PROMPTS = 16  # kept, on the device: who has one begins with a copy that holds nobody up
_GREEDY = SamplingConfig(greedy=True)


class Rows:
    """Gives conversations their rows.

    A prompt is computed in the row of the first conversation that has it, and kept: the row of every later
    one is a copy.

    Args:
        recogniser: has a row for each conversation as well, of the same number.
        most_positions: that are read at once; others' frames wait for them.
    """

    def __init__(
        self,
        step: FrameStep,
        recogniser: RecogniserStep | None = None,
        most_positions: int = MOST_POSITIONS,
    ) -> None:
        self._step = step
        self._recogniser = recogniser
        self._most_positions = most_positions
        self._slots = Slots[Key](step.rows)
        self._prompts: OrderedDict[str, SavedRow] = OrderedDict()  # rows that have but heard a prompt
        # Prompts, by which they are to be kept if at all. Of several with one name, the first computes it.
        self._computing: dict[Key, str | None] = {}

    def of(self, key: Key) -> int:
        """Returns the row of a conversation."""
        return self._slots.row_of(key)

    def enter(self, call: CallState, snapshot: Snapshot | None) -> list[OpeningFrame]:
        """Takes a row for a conversation; returns the steps that have to go before its first frame.

        Raises:
            InputError: its prompt or the snapshot is of another model.
        """
        if call.config.prompt is not None:
            check_opening(call.opening(), self._step.highest_tokens, self._step.dim)
        row = self._slots.claim(call.key)
        try:
            heard = self._resume_recogniser(row, None if snapshot is None else snapshot.heard)
            return [*heard, *(self.begin(call) if snapshot is None else self._resume(row, call, snapshot))]
        except BaseException:
            self.leave(call.key)
            raise

    def begin(self, call: CallState) -> list[PromptStep]:
        """Makes the row one of a conversation that has not begun, or has but heard its prompt."""
        row, prompt = self._slots.row_of(call.key), call.config.prompt
        if prompt is None:
            self._step.begin_row(row, call.sampling)
            return call.opening()
        name = f"{prompt.digest} {call.config.greet}"
        if name in self._prompts:
            self._load_kept(row, call, name)
            return []
        # Without chance: what is kept of it serves conversations with other seeds too.
        self._step.begin_row(row, _GREEDY)
        self._computing[call.key] = name
        return call.opening()

    def _load_kept(self, row: int, call: CallState, name: str) -> None:
        self._prompts.move_to_end(name)
        kept = self._prompts[name]
        self._step.begin_row(row, call.sampling)
        self._step.load_row(row, kept)

    def waits_for_prompt(self, key: Key) -> bool:
        """Tells whether another conversation computes the prompt that this one needs."""
        name = self._computing.get(key)
        return (
            name is not None and next(one for one in self._computing if self._computing[one] == name) != key
        )

    def take_kept(self, call: CallState) -> bool:
        """Takes the prompt that another conversation has computed meanwhile. Returns whether there is one."""
        name = self._computing.get(call.key)
        if name is None or name not in self._prompts:
            return False
        del self._computing[call.key]
        self._load_kept(self._slots.row_of(call.key), call, name)
        return True

    def _resume(self, row: int, call: CallState, snapshot: Snapshot) -> list[OpeningFrame]:
        snapshot.check()
        check_opening(snapshot.opening, self._step.highest_tokens, self._step.dim)
        try:
            call.load(snapshot.call)
        except Exception as error:  # whatever a stranger's numbers lead to
            raise InputError(f"a damaged snapshot of a conversation ({error})") from error
        in_prompt = any(isinstance(frame, PrefillFrame) or frame.of_prompt for frame in snapshot.opening)
        self._step.begin_row(row, _GREEDY if in_prompt else call.sampling)
        again = self._step.resume_row(row, snapshot.row)
        if in_prompt:
            self._computing[call.key] = None
        return [*recall_frames(again, self._most_positions), *snapshot.opening]

    def _resume_recogniser(self, row: int, heard: SavedRow | None) -> list[RecallFrame]:
        if self._recogniser is None:
            return []
        again = self._recogniser.resume_row(row, heard)
        return recall_frames(again, self._most_positions, of_recogniser=True)

    def prefill(self, call: CallState, frame: PrefillFrame | RecallFrame) -> None:
        """Takes the steps of a prompt in which everything is forced, or those taken elsewhere once more."""
        row = self._slots.row_of(call.key)
        if isinstance(frame, PrefillFrame):
            self._step.prefill(row, frame.tokens, frame.embeddings)
            return
        of = self._recogniser if frame.of_recogniser else self._step
        assert of is not None
        of.recall(row, frame.steps)

    def opened(self, call: CallState) -> None:
        """Notes that the last step before the first frame is taken: now its own settings hold."""
        if call.key not in self._computing:
            return
        row, name = self._slots.row_of(call.key), self._computing.pop(call.key)
        self._step.set_sampling(row, call.sampling)
        if name is None:
            return
        try:
            with memory_for("a prompt that is kept"):
                kept = self._step.save_row(row)
        except DeviceFull as error:
            _log.warning("a prompt is not kept, and computed for each conversation: %s", error)
            return
        self._prompts[name] = kept
        while len(self._prompts) > 1 and self._keeps_too_much():
            self._prompts.popitem(last=False)

    def _keeps_too_much(self) -> bool:
        num_bytes = sum(kept.num_bytes for kept in self._prompts.values())
        return len(self._prompts) > _MOST_PROMPTS or num_bytes > PROMPT_BYTES

    def set_sampling(self, call: CallState) -> None:
        """Has the row sample by the conversation's settings, once its prompt is over."""
        if call.key not in self._computing:
            self._step.set_sampling(self._slots.row_of(call.key), call.sampling)

    def steps_taken(self, key: Key) -> int:
        """Steps of the language model that are in the row's state."""
        return self._step.steps_taken(self._slots.row_of(key))

    def save(self, call: CallState, opening: Sequence[OpeningFrame], compact: bool) -> Snapshot:
        """Copies the conversation between two frames, with the steps of its prompt still to come.

        One whose caches are not complete yet has no other form than the compact one.
        """
        row = self._slots.row_of(call.key)
        compact |= any(isinstance(frame, RecallFrame) for frame in opening)
        return Snapshot(
            row=self._step.save_row(row, compact),
            sampling=call.sampling,
            call=call.save(),
            opening=tuple(frame for frame in opening if isinstance(frame, PromptStep)),
            heard=None if self._recogniser is None else self._recogniser.save_row(row, compact),
        )

    def hear_anew(self, key: Key) -> None:
        """Has the recogniser begin anew with a conversation, whose numbers in it are none any more."""
        assert self._recogniser is not None
        self._recogniser.begin_row(self._slots.row_of(key))

    def leave(self, key: Key) -> None:
        """Frees the row of a conversation; the last row moves into the gap."""
        self._computing.pop(key, None)
        move = self._slots.release(key)
        if move is not None:
            self._step.move_row(move.source, move.target)
            if self._recogniser is not None:
                self._recogniser.move_row(move.source, move.target)

    def try_step(self) -> None:
        """Takes a step in a row that is nobody's. Raises what the device raises."""
        self.rebuild()
        silence = [RowInput(row=0, pcm=np.zeros(FRAME_SAMPLES, np.float32))]
        self._step.run(silence)
        if self._recogniser is not None:
            self._recogniser.launch(silence)()
        self.rebuild()

    def rebuild(self) -> None:
        """Frees every row and renews its state. Raises what the device raises."""
        self._slots = Slots[Key](self._step.rows)
        self._computing.clear()
        self._step.rebuild()
        if self._recogniser is not None:
            self._recogniser.rebuild()
