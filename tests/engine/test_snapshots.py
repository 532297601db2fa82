"""A conversation as bytes: it goes on elsewhere as if nothing had happened."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent import AudioChunk, Event, InputError, Prompt, SamplingConfig, Session, SessionConfig
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.call.opening import PrefillFrame, PromptFrame
from moshi_agent.engine.commands import InputFrame, Open, TakeSnapshot
from moshi_agent.engine.event_queue import EventQueue
from moshi_agent.engine.snapshot import Snapshot, pack_snapshot, unpack_snapshot
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, taken

NOISE = np.random.default_rng(0).normal(0, 0.1, (8, 1920)).astype(np.float32)


def snapshot_of(session: Session) -> bytes:
    return session.take_snapshot().result(20)


def timeless(events: list[Event]) -> list[Event]:
    """Without wall time, and without sound."""
    return [replace(event, wall_s=0.0) for event in events if not isinstance(event, AudioChunk)]


def test_an_answer_goes_on_elsewhere_in_mid_word(checkpoint: Checkpoint, thanks: NDArray[np.float32]) -> None:
    here, there = SteppedCore(checkpoint, capacity=2), SteppedCore(checkpoint, capacity=3)
    config = SessionConfig(seed=1, live=False)
    session = here.session(config)
    session.push(np.concatenate([thanks, np.zeros(-len(thanks) % 1920 + 2 * 1920, np.float32)]))
    here.settle()
    before = taken(session)
    assert any(np.abs(event.pcm).max() > 0.05 for event in before[-8:] if isinstance(event, AudioChunk))
    saved = snapshot_of(session)
    others = [there.session(), there.session()]
    resumed = there.session(SessionConfig(live=False), resume=saved)
    others[0].close()
    there.settle()
    after = {}
    for name, core, one in (("here", here, session), ("there", there, resumed)):
        for _ in range(14):
            one.push(SILENCE)
        core.settle()
        after[name] = taken(one)
    assert len(audio_of(after["here"])) == 14 * 1920
    assert np.array_equal(audio_of(after["here"]), audio_of(after["there"]))
    user = ("UserStarted", "UserStopped", "OverlapStarted", "OverlapStopped")
    told = {k: [e for e in timeless(v) if type(e).__name__ not in user] for k, v in after.items()}
    assert told["here"] == told["there"]
    assert {"TextToken", "Word"} <= {type(event).__name__ for event in told["there"]}


def test_a_sentence_to_be_said_is_said_elsewhere(core: SteppedCore, small_checkpoint: Checkpoint) -> None:
    session = core.session()
    session.say("hello there")
    session.push(SILENCE)
    core.settle()
    saved = snapshot_of(session)
    assert unpack_snapshot(saved).call["say_queue"]["queue"][0]["text"] == "hello there"
    there = SteppedCore(small_checkpoint)
    again = there.session(resume=saved)
    for one in (session, again):
        one.push(SILENCE)
        one.push(SILENCE)
    core.settle()
    there.settle()
    assert unpack_snapshot(snapshot_of(session)).call == unpack_snapshot(snapshot_of(again)).call


def test_settings_go_along_unless_others_are_given(core: SteppedCore) -> None:
    first = core.session(SessionConfig(sampling=SamplingConfig(temp=0.3), seed=77))
    first.set_sampling(SamplingConfig(temp=0.4))
    saved = snapshot_of(first)
    kept = unpack_snapshot(snapshot_of(core.session(SessionConfig(), resume=saved))).sampling
    assert (kept.temp, kept.seed) == (0.4, 77)
    changed = unpack_snapshot(snapshot_of(core.session(SessionConfig(seed=5), resume=saved))).sampling
    assert (changed.temp, changed.seed) == (0.4, 5)


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        (None, 1),
        (Prompt(np.array([[7, 7, 7, -2, -2]] * 3)), 4),
        (Prompt(np.full((3, 5), 7)), 2),  # three steps at once
        (Prompt(np.full((3, 5), 7), np.ones((2, 16), np.float32), is_whole=True), 1),
    ],
    ids=["none", "partly forced", "forced", "with embeddings"],
)
def test_what_waits_goes_along_even_a_prompt_that_is_not_over(
    small_checkpoint: Checkpoint, prompt: Prompt | None, opening: int
) -> None:
    config = SessionConfig(seed=3, live=False, digital_silence=False, prompt=prompt)
    here, there = SteppedCore(small_checkpoint), SteppedCore(small_checkpoint)
    events = EventQueue()
    here.inbox.request(Open(1, config), events.put)
    for pcm in NOISE:
        here.send(InputFrame(1, pcm, False, False, 0.0))
    reply = here.inbox.request(TakeSnapshot(1))  # before the first step
    here.settle()
    saved = unpack_snapshot(reply.result(20))
    assert len(saved.opening) == opening
    assert len(saved.inputs) == 8
    resumed = there.session(SessionConfig(live=False, digital_silence=False), resume=reply.result())
    there.settle()
    chunks = [events.get(0) for _ in range(8)]
    while not all(isinstance(chunk, AudioChunk) for chunk in chunks):
        chunks = [chunk for chunk in chunks if isinstance(chunk, AudioChunk)]
        chunks += [events.get(0) for _ in range(8 - len(chunks))]
    assert np.array_equal(audio_of(chunks), audio_of(taken(resumed)))  # type: ignore[arg-type]
    assert resumed.backlog_s == 0


@pytest.fixture(scope="module")
def saved(small_checkpoint: Checkpoint) -> bytes:
    core = SteppedCore(small_checkpoint)
    session = core.session()
    session.push(SILENCE)
    core.settle()
    return snapshot_of(session)


def test_bytes_that_are_no_snapshot_are_refused(core: SteppedCore, saved: bytes) -> None:
    for data in (b"", b"garbage", b"\x00" * 100, saved[:-1], saved[:100], b"\xff" * 8 + saved[8:]):
        with pytest.raises(InputError, match="snapshot"):
            core.session(resume=data)
    assert core.core.metrics.snapshot().live_sessions == 0
    assert len([core.session() for _ in range(4)]) == 4


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_an_error_of_the_callers_and_of_nobody_else(data: st.DataObject, saved: bytes) -> None:
    header = 8 + int.from_bytes(saved[:8], "little")
    place = data.draw(st.integers(0, header - 1))
    damaged = bytearray(saved)
    damaged[place] = data.draw(st.integers(0, 255))
    with suppress(InputError):
        assert isinstance(unpack_snapshot(bytes(damaged)), Snapshot)


def test_a_snapshot_of_another_model_is_refused(checkpoint: Checkpoint, saved: bytes) -> None:
    with pytest.raises(InputError, match="of another model"):
        SteppedCore(checkpoint, capacity=1).session(resume=saved)


def test_a_snapshot_with_steps_of_a_prompt_that_are_none_is_refused(core: SteppedCore, saved: bytes) -> None:
    good = unpack_snapshot(saved)
    streams = core.step.num_streams
    steps: list[Any] = [
        PromptFrame([3] * streams, True),  # pyright: ignore[reportArgumentType]
        PrefillFrame([[3] * streams]),  # pyright: ignore[reportArgumentType]
        PrefillFrame(np.full((1, streams), 3), [0.5]),  # pyright: ignore[reportArgumentType]
        PrefillFrame(np.full((10_000, streams), 3)),
    ]
    for step in steps:
        with pytest.raises(InputError, match=r"damaged|at once"):
            core.session(resume=pack_snapshot(replace(good, opening=(step,))))


def test_a_snapshot_whose_parts_do_not_fit_is_refused_before_it_reaches_a_step(
    core: SteppedCore, saved: bytes
) -> None:
    good = unpack_snapshot(saved)
    frame = InputFrame(1, np.zeros(7, np.float32), False, False, 0.0)
    bad: list[dict[str, Any]] = [{"inputs": (frame,)}, {"call": {}}, {"call": {**good.call, "gate": 3}}]
    for change in bad:
        with pytest.raises(InputError, match="damaged snapshot"):
            core.session(resume=pack_snapshot(replace(good, **change)))
    neighbour = core.session()
    neighbour.push(SILENCE)
    core.wait(FRAME_S)
    assert len(audio_of(taken(neighbour))) == 1920
