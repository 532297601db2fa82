"""A conversation as bytes: it goes on elsewhere as if nothing had happened."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load, save

from moshi_agent import (
    AudioChunk,
    Ended,
    Event,
    InputError,
    Prompt,
    SamplingConfig,
    Session,
    SessionConfig,
    TextToken,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.call.opening import PrefillFrame, PromptFrame
from moshi_agent.engine.commands import InputFrame, Open, TakeSnapshot
from moshi_agent.engine.event_queue import EventQueue
from moshi_agent.engine.snapshot import Snapshot, pack_snapshot, unpack_snapshot
from moshi_agent.engine.step.saved_row import SideInputs
from tests.checkpoint.mutations import mutated
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


def test_a_conversation_that_moves_says_everything_once(
    checkpoint: Checkpoint, thanks: NDArray[np.float32]
) -> None:
    """Moved in mid-answer, with input that waits: it gives what it gives where it stays."""
    said = np.concatenate([thanks, np.zeros(-len(thanks) % 1920 + 30 * 1920, np.float32)]).reshape(-1, 1920)
    middle = len(thanks) // 1920 + 4

    def go_through(moves: bool) -> list[Event]:
        here, there = SteppedCore(checkpoint, capacity=2), SteppedCore(checkpoint, capacity=2)
        session, neighbour = here.session(SessionConfig(seed=1, live=False)), here.session()
        session.push(said[:middle].reshape(-1))
        here.settle()
        heard = taken(session)
        session.push(said[middle : middle + 3].reshape(-1))  # waits
        if moves:
            reply = session.take_snapshot(end=True)
            here.core.run_once()
            *last, ended = taken(session)
            assert isinstance(ended, Ended) and ended.reason == "moved" and not session.is_open
            assert neighbour.is_open and len(here.core._conversations) == 1
            heard += last
            session = there.session(SessionConfig(live=False), resume=reply.result(20))
        else:
            there = here
        session.push(said[middle + 3 :].reshape(-1))
        there.settle()
        return heard + taken(session)

    stays, moves = go_through(moves=False), go_through(moves=True)
    texts = [[event.text for event in run if isinstance(event, TextToken)] for run in (stays, moves)]
    assert texts[0] == texts[1] and len(texts[0]) > 3
    assert np.array_equal(audio_of(stays), audio_of(moves))


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


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


_ANYTHING = st.one_of(
    st.sampled_from(
        [None, True, -1, 2**31, 2**63, 10**400, math.inf, math.nan, "", "x", "\ud800", [], {}, [0], [[]]]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
)


@pytest.fixture(scope="module", params=["whole", "compact"])
def rich(request: pytest.FixtureRequest, small_checkpoint: Checkpoint) -> bytes:
    """A snapshot with something in all of its parts."""
    core = SteppedCore(small_checkpoint)
    session = core.session(SessionConfig(seed=3, greet=True))
    for pcm in NOISE[:4]:
        session.push(pcm)
        core.wait(FRAME_S)
    session.say("hello there")
    session.push(NOISE[5])
    reply = core.inbox.request(TakeSnapshot(session.key, compact=request.param == "compact"))
    core.settle()
    good = unpack_snapshot(reply.result(20))
    side = SideInputs({1: np.ones(core.step.dim, np.float32)})
    opening = (
        PromptFrame(np.full(core.step.num_streams, 3), True),
        PrefillFrame(np.full((2, core.step.num_streams), 3)),
    )
    words = {
        "character": [0xE2],
        "is_writing": True,
        "open": [{"text": "hi", "start": 3, "was_heard": True, "fell_silent": None}],
    }
    return pack_snapshot(
        replace(
            good,
            row=replace(good.row, side=side),
            call={**good.call, "words": words},
            opening=opening,
            inputs=(InputFrame(1, NOISE[0], True, False, 0.0),),
        )
    )


@pytest.fixture(scope="module")
def shared_core(small_checkpoint: Checkpoint) -> tuple[SteppedCore, Session]:
    core = SteppedCore(small_checkpoint, capacity=2)
    return core, core.session(SessionConfig(live=False))


def _with_facts(data: bytes, facts: Any) -> bytes:
    return save(load(data), {"moshi_agent": json.dumps(facts)})


def _facts(data: bytes) -> Any:
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["moshi_agent"])


def _resume_beside(core: SteppedCore, neighbour: Session, data: bytes) -> None:
    """A stranger's snapshot does what it does to its own conversation alone."""
    with suppress(InputError):
        session = core.session(SessionConfig(), resume=data)
        if session.is_open:
            session.push(NOISE[0])
            core.wait(2 * FRAME_S)
        session.close()
        core.settle()
    neighbour.push(NOISE[1])
    core.wait(FRAME_S)
    assert len(audio_of(taken(neighbour))) == 1920
    figures = core.core.metrics.snapshot()
    assert (figures.live_sessions, figures.restarts) == (1, 0)


def test_the_snapshot_that_is_tampered_with_would_be_taken(
    rich: bytes, shared_core: tuple[SteppedCore, Session]
) -> None:
    core, neighbour = shared_core
    session = core.session(SessionConfig(), resume=rich)
    core.wait(4 * FRAME_S)
    assert session.is_open and len(audio_of(taken(session))) >= 1920
    session.close()
    _resume_beside(core, neighbour, rich)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_facts_in_a_snapshot_end_another_conversation(
    data: st.DataObject, rich: bytes, shared_core: tuple[SteppedCore, Session]
) -> None:
    facts = _facts(rich)
    *path, last = data.draw(st.sampled_from([*_places(facts)]))
    owner = facts
    for key in path:
        owner = owner[key]
    owner[last] = data.draw(_ANYTHING)
    _resume_beside(*shared_core, _with_facts(rich, facts))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_numbers_in_a_snapshot_end_another_conversation(
    data: st.DataObject, rich: bytes, shared_core: tuple[SteppedCore, Session]
) -> None:
    tensors, facts = load(rich), _facts(rich)
    name = data.draw(st.sampled_from([name for name, one in tensors.items() if one.dtype == torch.int64]))
    tensors[name] = torch.full_like(tensors[name], data.draw(st.integers(-(2**63), 2**63 - 1)))
    _resume_beside(*shared_core, save(tensors, {"moshi_agent": json.dumps(facts)}))


@pytest.mark.parametrize(
    "count", [pytest.param(40, id="some"), pytest.param(600, id="many", marks=pytest.mark.slow)]
)
def test_no_byte_of_a_snapshot_ends_another_conversation(
    count: int, rich: bytes, shared_core: tuple[SteppedCore, Session]
) -> None:
    """Cut, flipped and exchanged bytes, other shapes and offsets, NaN in the state."""
    draw = random.Random(count)
    for _ in range(count):
        _resume_beside(*shared_core, mutated("snapshot.safetensors", rich, draw))
