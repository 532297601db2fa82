"""Where the device computes aside, it has the next step before this one is delivered: nobody hears it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moshi_agent import AudioChunk, Ended, Event, Prompt, Session, SessionConfig, load_checkpoint
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.commands import InputFrame, Open
from moshi_agent.engine.event_queue import Delivery
from tests.engine.calling_device import CallingDevice
from tests.engine.stepped_core import FRAME_S, SteppedCore, audio_of, kinds_of, taken
from tests.recogniser_model import write_recogniser_checkpoint

NOISE: NDArray[np.float32] = np.random.default_rng(0).normal(0, 0.1, (24, 1920)).astype(np.float32)
PROMPT = Prompt(np.full((6, 5), 7), is_whole=True)


def told(events: list[Event]) -> list[str]:
    """Everything but the time of day; sound by its bits."""
    audio = [sha1(event.pcm.tobytes()).hexdigest() for event in events if isinstance(event, AudioChunk)]
    return [*(repr(replace(event, wall_s=0.0)) for event in events), *audio]


class Scene:
    """Several conversations, the same on any core."""

    def __init__(self, core: SteppedCore) -> None:
        self.core = core
        self.events: list[list[Event]] = []
        self._sessions: list[Session] = []

    def open(self, config: SessionConfig, resume: bytes | None = None) -> Session:
        self._sessions.append(self.core.session(replace(config, digital_silence=False), resume))
        self.events.append([])
        return self._sessions[-1]

    def hear(self, first: int, last: int, together: int = 1) -> None:
        """Frames of all who are there; so many at a time, whose steps follow upon each other."""
        for start in range(first, last, together):
            for number, session in enumerate(self._sessions):
                if session.is_open:
                    session.push(np.roll(NOISE, number, axis=0)[start : start + together].reshape(-1))
            self.core.wait(together * FRAME_S)

    def all_told(self) -> list[list[str]]:
        self.core.settle()
        return [told(taken(session)) for session in self._sessions]


def of_all_kinds(scene: Scene) -> list[list[str]]:
    """Whatever bears on the next step: sentences, holds, prompts, copies, stalls, full contexts, ends."""
    talker = scene.open(SessionConfig(seed=1))
    reader = scene.open(SessionConfig(seed=2, live=False, tail_ms=160, longest_tail_ms=400))
    scene.hear(0, 4, together=2)
    talker.say("the the", at_once=True)
    scene.hear(4, 6)
    prompted = scene.open(SessionConfig(seed=3, prompt=PROMPT, greet=True))
    scene.hear(6, 8, together=2)
    prompted.hold(0.4)
    talker.set_sampling(SamplingConfig(temp=0.5))
    copy = talker.take_snapshot()
    scene.hear(8, 11, together=3)
    reader.finish()
    scene.open(SessionConfig(seed=4), resume=copy.result(10))
    scene.open(SessionConfig(seed=5, refresh=True, silence_floor_dbfs=100.0))
    prompted.close()
    scene.core.wait(1.6)  # a tail, and silence for those whose input has stalled
    talker.close()
    scene.hear(11, 14, together=3)
    return scene.all_told()


def test_what_is_told_is_the_same_to_the_last_bit(small_checkpoint: Checkpoint) -> None:
    log: list[str] = []
    at_once = of_all_kinds(Scene(SteppedCore(small_checkpoint, capacity=5)))
    ahead = of_all_kinds(Scene(SteppedCore(small_checkpoint, graphs=CallingDevice(log), capacity=5)))
    assert log.count("launched") > 30
    for one, other in zip(at_once, ahead, strict=True):
        assert one == other
    everything = str(at_once)
    for kind in ("SayFinished", "InputStalled", "ContextFull", "ContextRefreshed", "finished", "closed"):
        assert kind in everything


def test_the_words_of_a_recogniser_come_in_their_places(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    recogniser = load_checkpoint(write_recogniser_checkpoint(tmp_path / "stt"), pack="auto")
    results = []
    for graphs in (False, CallingDevice()):
        scene = Scene(SteppedCore(small_checkpoint, recogniser=recogniser, graphs=graphs))
        first = scene.open(SessionConfig(seed=1))
        scene.open(SessionConfig(seed=2))
        scene.hear(0, 9, together=3)
        first.close()
        scene.hear(9, 18, together=3)
        results.append(scene.all_told())
    assert results[0] == results[1]
    assert "UserText" in str(results[0])


def opened(core: SteppedCore, log: list[str], key: int, **config: Any) -> None:
    """A conversation whose frames and end are noted in the log."""

    def take(delivery: Delivery) -> None:
        for event in delivery.events:
            if isinstance(event, AudioChunk | Ended):
                log.append(f"{key}: {event.frame if isinstance(event, AudioChunk) else 'ended'}")

    core.inbox.request(Open(key, SessionConfig(digital_silence=False, **config)), take)
    core.settle()


def push(core: SteppedCore, key: int, frames: int) -> None:
    for pcm in NOISE[:frames]:
        core.send(InputFrame(key, pcm, speaking=False, silent=False, complete_at=core.now))


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def ahead(small_checkpoint: Checkpoint, log: list[str]) -> SteppedCore:
    core = SteppedCore(small_checkpoint, graphs=CallingDevice(log))
    core.step.warm_up()
    return core


def test_a_step_is_delivered_while_the_next_one_is_computed(ahead: SteppedCore, log: list[str]) -> None:
    opened(ahead, log, 1)
    del log[:]
    push(ahead, 1, 3)
    ahead.settle()
    assert log == [
        *("launched", "waited"),
        *("launched", "1: 0", "waited"),
        *("launched", "1: 1", "waited"),
        "1: 2",  # there is nothing to launch
    ]


def test_what_bears_on_the_next_step_is_delivered_before_it(ahead: SteppedCore, log: list[str]) -> None:
    opened(ahead, log, 1)
    opened(ahead, log, 2)
    ahead.core._conversations[2].hold(10.0)
    del log[:]
    for key in (1, 2):
        push(ahead, key, 2)
    ahead.settle()
    assert log == ["launched", "waited", "2: 0", "launched", "1: 0", "waited", "2: 1", "1: 1"]


def test_a_command_finds_its_conversation_as_the_steps_have_left_it(
    ahead: SteppedCore, log: list[str]
) -> None:
    opened(ahead, log, 1)
    push(ahead, 1, 2)
    ahead.core.run_once()
    assert log[-1] == "waited"
    assert ahead.core._conversations[1].frame == 1 and log[-1] == "1: 0"


@pytest.mark.parametrize("fails", ["launch", "wait"])
def test_what_a_step_gave_is_heard_though_the_next_one_fails(
    ahead: SteppedCore, log: list[str], monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    opened(ahead, log, 1)
    del log[:]
    push(ahead, 1, 3)
    ahead.core.run_once()

    def lost(*_: object) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(ahead.step, "launch", lost if fails == "launch" else lambda inputs: lost)
    ahead.settle()
    assert log == ["launched", "waited", "1: 0", "1: ended"]


def test_who_ends_while_the_device_computes_leaves_the_others_theirs(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of one conversation shows when it is delivered: the rows move under the step in flight."""
    heard: list[NDArray[np.float32]] = []
    for graphs in (False, CallingDevice()):
        core = SteppedCore(small_checkpoint, graphs=graphs)
        scene = Scene(core)
        sessions = [scene.open(SessionConfig(seed=seed)) for seed in range(3)]
        scene.hear(0, 3)
        faulty = core.core._conversations[sessions[0].key]
        monkeypatch.setattr(faulty, "_audio_events", _raising(faulty._audio_events, after=1))
        scene.hear(3, 12, together=3)
        events = [taken(session) for session in sessions]
        (end,) = kinds_of(events[0], Ended)
        assert isinstance(end, Ended) and end.error == "the conversation failed: a fault"
        heard.append(np.concatenate([audio_of(one) for one in events[1:]]))
        assert len(audio_of(events[0])) == 4 * 1920
    assert len(heard[0]) == 2 * 12 * 1920
    np.testing.assert_array_equal(*heard)


def _raising(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    calls = [0]

    def call(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            raise ValueError("a fault")
        return function(*arguments)

    return call
