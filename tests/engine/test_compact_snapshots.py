"""A conversation as bytes without the model's cache: it goes on elsewhere once its tokens are read again."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moshi_agent import AudioChunk, InputError, Prompt, SamplingConfig, Session, SessionConfig, TextToken
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import ConditionerConfig, FuserConfig, ReferenceKind
from moshi_agent.engine.call.opening import RecallFrame
from moshi_agent.engine.commands import Open, TakeSnapshot
from moshi_agent.engine.event_queue import EventQueue
from moshi_agent.engine.snapshot import pack_snapshot, unpack_snapshot
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.engine.step.saved_row import SideInputs
from moshi_agent.models.lm import LMModel
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken
from tests.reference_models import ROW_DIM, reference_checkpoint
from tests.small_models import small_lm, small_lm_config, small_mimi
from tests.text_tokenizers import small_tokenizer

CONTEXT = 64  # longer than the calls here, but where it says so
NOISE = np.random.default_rng(0).normal(0, 0.1, (100, 1920)).astype(np.float32)
CALL = SessionConfig(seed=3, live=False, digital_silence=False, sampling=SamplingConfig(temp_text=1.5))
PLAIN = SessionConfig(live=False, digital_silence=False)


@pytest.fixture(scope="module")
def model(small_checkpoint: Checkpoint) -> Checkpoint:
    lm = small_lm(CONTEXT)
    lm.pack("float32")
    return replace(small_checkpoint, lm=lm)


def compact(core: SteppedCore, session: Session, end: bool = False) -> bytes:
    reply = session.take_snapshot(end=end, compact=True)
    core.settle()
    return reply.result(20)


def go_on(core: SteppedCore, session: Session, first: int, frames: int, loudness: float = 1.0) -> list[Any]:
    """What is told of so many frames of noise."""
    session.push(loudness * np.concatenate(NOISE[first : first + frames]))
    core.settle()
    return taken(session)


def assert_goes_on_the_same(
    here: SteppedCore, session: Session, there: SteppedCore, copy: Session, first: int, loudness: float = 1.0
) -> None:
    both = ((here, session), (there, copy))
    stayed, moved = (go_on(core, one, first, 20, loudness) for core, one in both)
    texts = [[event.token for event in kinds_of(one, TextToken)] for one in (stayed, moved)]  # pyright: ignore[reportAttributeAccessIssue]
    assert texts[0] == texts[1]
    assert len(audio_of(stayed)) == 20 * 1920 and np.array_equal(audio_of(stayed), audio_of(moved))


def test_an_answer_goes_on_elsewhere_in_mid_word(checkpoint: Checkpoint, thanks: NDArray[np.float32]) -> None:
    """`tiny`, in another row; and the bytes are a part of those with the cache."""
    here, there = SteppedCore(checkpoint, capacity=1), SteppedCore(checkpoint, capacity=3)
    session = here.session(SessionConfig(seed=1, live=False))
    session.push(np.concatenate([thanks, np.zeros(-len(thanks) % 1920 + 2 * 1920, np.float32)]))
    here.settle()
    assert any(
        np.abs(event.pcm).max() > 0.05 for event in taken(session)[-8:] if isinstance(event, AudioChunk)
    )
    whole = session.take_snapshot().result(20)
    saved = compact(here, session)
    assert len(saved) < len(whole) / 2
    others = [there.session(), there.session()]
    resumed = there.session(SessionConfig(live=False), resume=saved)
    others[0].close()
    there.settle()
    after: list[list[Any]] = []
    for core, one in ((here, session), (there, resumed)):
        for _ in range(14):
            one.push(SILENCE)
        core.settle()
        after.append(taken(one))
    texts = [[event.text for event in events if isinstance(event, TextToken)] for events in after]
    assert texts[0] == texts[1] and texts[0]
    assert len(audio_of(after[0])) == 14 * 1920
    assert np.array_equal(audio_of(after[0]), audio_of(after[1]))


@pytest.mark.parametrize("greet", [False, True], ids=["silent", "greeting"])
@pytest.mark.parametrize(
    "prompt",
    [
        None,
        Prompt(np.array([[7, 7, 7, -2, -2]] * 3)),
        Prompt(np.full((20, 5), 7)),  # read in pieces
        Prompt(np.full((20, 5), 7), np.random.default_rng(1).normal(0, 1, (9, 16)).astype(np.float32), True),
    ],
    ids=["none", "partly forced", "forced", "with embeddings"],
)
def test_it_goes_on_as_it_would_have(model: Checkpoint, prompt: Prompt | None, greet: bool) -> None:
    """Twice: what has come from elsewhere can go on to the next place, from a kept prompt as well."""
    cores = [SteppedCore(model) for _ in range(3)]
    config = replace(CALL, prompt=prompt, greet=greet)
    cores[0].session(config)  # computes the prompt
    session = cores[0].session(config)
    go_on(cores[0], session, 0, 10)
    second = cores[1].session(PLAIN, resume=compact(cores[0], session))
    third = cores[2].session(PLAIN, resume=compact(cores[1], second))
    assert_goes_on_the_same(cores[0], session, cores[2], third, 10)


@pytest.mark.parametrize("kind", ["tokens", "rows"])
def test_references_are_read_again(kind: ReferenceKind) -> None:
    """Those that the model has read, and those that it has still to read."""

    def encode(text: str) -> NDArray[np.float32]:
        return np.random.default_rng(len(text)).normal(0, 3, (12, ROW_DIM)).astype(np.float32)

    model = reference_checkpoint(kind, CONTEXT)
    here, there, deaf = (SteppedCore(model, reference_encoder=encode) for _ in range(3))
    session, quietly = here.session(CALL), 1e-3  # a voice would be one that wants nothing looked up any more
    go_on(here, session, 0, 5, quietly)
    reply = session.refer("Your order is on its way.")
    here.settle()
    assert reply.result(20).outcome == "taken"
    go_on(here, session, 5, 4, quietly)
    saved = compact(here, session)
    side = unpack_snapshot(saved).row.side
    assert list(side.references) == [6, 7, 8, 9]
    copy = there.session(PLAIN, resume=saved)
    snapshot = unpack_snapshot(saved)
    without = replace(snapshot, row=replace(snapshot.row, side=SideInputs()))
    ignorant = deaf.session(PLAIN, resume=pack_snapshot(without))
    caches = [core.step.state.lm.temporal.kv[0] for core in (here, there, deaf)]
    torch.testing.assert_close(caches[0], caches[1], rtol=0, atol=1e-5)
    assert not torch.allclose(caches[0], caches[2], rtol=0, atol=1e-2), "they are felt"
    assert_goes_on_the_same(here, session, there, copy, 9, quietly)
    assert len(audio_of(go_on(deaf, ignorant, 9, 2))) == 2 * 1920


@cache
def prepended() -> Checkpoint:
    """A model with a condition before its first step."""
    speaker = ConditionerConfig(
        name="first_speaker", kind="lut", dim=4, n_bins=1, possible_values=("SPEAKER_MAIN",)
    )
    config = replace(
        small_lm_config(CONTEXT), conditioners=(speaker,), fuser=FuserConfig(prepend=("first_speaker",))
    )
    torch.manual_seed(0)
    lm = LMModel(config)
    lm.init_weights()
    mimi = small_mimi()
    for one in (mimi, lm):
        one.pack("float32")
    return Checkpoint(
        name="prepended",
        mimi=mimi,
        mimi_config=mimi.config,
        lm=lm.eval(),
        config=config,
        tokenizer=small_tokenizer(),
    )


@pytest.mark.parametrize("frames", [10, 90], ids=["short", "longer than the context"])
def test_a_condition_before_the_first_step_is_there_as_long_as_the_cache_has_it(frames: int) -> None:
    here, there = SteppedCore(prepended()), SteppedCore(prepended())
    session = here.session(CALL)
    go_on(here, session, 0, frames)
    copy = there.session(PLAIN, resume=compact(here, session))
    offsets = [int(core.step.state.lm.temporal.offset[0]) for core in (here, there)]
    assert offsets == [frames + 2, min(frames + 2, CONTEXT)]
    if frames < CONTEXT:
        assert_goes_on_the_same(here, session, there, copy, frames)
    else:
        assert len(audio_of(go_on(there, copy, 0, 5))) == 5 * 1920


def test_a_call_longer_than_the_context_goes_on_from_its_last_frames(model: Checkpoint) -> None:
    """The lowest layer's cache is the same; deeper ones have seen further back. Both forms move on."""
    here, there = SteppedCore(model), SteppedCore(model)
    session = here.session(CALL)
    go_on(here, session, 0, 90)
    copy = there.session(PLAIN, resume=compact(here, session))
    stayed, moved = (core.step.state.lm.temporal for core in (here, there))
    values = [
        kv[0, :, 1] for kv in (stayed.kv, moved.kv)
    ]  # [layers, H_kv, CONTEXT, D], which turn by no position
    turned = torch.roll(values[1], int(stayed.offset[0]) % CONTEXT, dims=2)
    torch.testing.assert_close(values[0][0], turned[0], rtol=0, atol=1e-5)
    assert not torch.allclose(values[0][1], turned[1], rtol=0, atol=1e-3)
    assert len(audio_of(go_on(there, copy, 0, 3))) == 3 * 1920
    whole = copy.take_snapshot()
    there.settle()
    again = SteppedCore(model)
    third = again.session(PLAIN, resume=whole.result(20))
    assert_goes_on_the_same(there, copy, again, third, 3)


def test_one_piece_is_read_in_a_step_and_neighbours_go_on(model: Checkpoint) -> None:
    """Two join at once; the neighbour's sound is what it is without them."""
    here, there, alone = (SteppedCore(model) for _ in range(3))
    session = here.session(CALL)
    go_on(here, session, 0, 50)
    saved = compact(here, session)
    config = SessionConfig(seed=8, digital_silence=False)
    neighbour, same = there.session(config), alone.session(config)
    opened: list[int] = []
    for key in (50, 51):
        there.inbox.request(Open(key, PLAIN, saved), EventQueue().put)
    read: list[int] = []
    recall = there.step.recall
    there.step.recall = lambda row, steps: (read.append(len(steps)), recall(row, steps))[1]  # type: ignore[method-assign]
    for pcm in NOISE[:12]:
        neighbour.push(pcm)
        same.push(pcm)
        before = len(read)
        there.core.run_once()
        opened.append(len(read) - before)
        alone.core.run_once()
        there.now += FRAME_S
        alone.now += FRAME_S
    assert opened == [1] * 8 + [0] * 4, "51 steps in pieces of 16, for each of the two"
    assert read == [16] * 8 or read == [16, 16, 16, 3] * 2
    heard, expected = audio_of(taken(neighbour)), audio_of(taken(same))
    assert len(heard) == 12 * 1920 and np.array_equal(heard, expected)


@pytest.mark.parametrize("asked_for", ["compact", "whole"])
def test_it_moves_on_while_its_steps_are_still_read(model: Checkpoint, asked_for: str) -> None:
    """Then there is no whole form yet: it goes on in the compact one."""
    here, middle, there = (SteppedCore(model) for _ in range(3))
    session = here.session(replace(CALL, prompt=Prompt(np.full((20, 5), 7))))
    go_on(here, session, 0, 20)
    saved = compact(here, session)
    middle.inbox.request(Open(7, PLAIN, saved), EventQueue().put)
    middle.core.run_once()  # a piece of three
    waiting = middle.core._conversations._scheduler.save(7)["urgent"]
    assert [len(frame.steps) for frame in waiting] == [16, 9] and isinstance(waiting[0], RecallFrame)
    reply = middle.inbox.request(TakeSnapshot(7, compact=asked_for == "compact"))
    middle.core.run_once()
    copy = there.session(PLAIN, resume=reply.result(20))
    assert_goes_on_the_same(here, session, there, copy, 20)


def test_what_a_row_cannot_have_read_is_refused(model: Checkpoint) -> None:
    """Checked before anything of it reaches a step; the row stays free for others."""
    core = SteppedCore(model, capacity=1)
    session = core.session(CALL)
    go_on(core, session, 0, 5)
    good = unpack_snapshot(compact(core, session, end=True))
    row, token = good.row, torch.full_like(good.row.tensors[-1], 1000)
    vector = np.ones(16, np.float32)
    bad = {
        "steps": replace(row, steps=4),
        "many steps": replace(row, steps=10**30),
        "negative": replace(row, steps=-1),
        "form": replace(row, is_compact=False),
        "tokens": replace(row, tensors=[*row.tensors[:-1], token]),
        "too few": replace(row, tensors=row.tensors[:-1]),
        "width": replace(row, side=SideInputs({1: vector[:3]})),
        "numbers": replace(row, side=SideInputs({1: np.inf * vector})),
        "a later step": replace(row, side=SideInputs({6: vector})),
        "references": replace(row, side=SideInputs({}, {1: 3})),
    }
    for name, one in bad.items():
        with pytest.raises(InputError, match=r"row|steps"):
            core.session(PLAIN, resume=pack_snapshot(replace(good, row=one)))
        assert core.core.metrics.snapshot().live_sessions == 0, name
    copy = core.session(PLAIN, resume=pack_snapshot(good))
    assert len(audio_of(go_on(core, copy, 5, 3))) == 3 * 1920


@pytest.mark.parametrize("reference", [-3, 801, 10**12])
def test_references_that_the_model_lacks_are_refused(reference: int) -> None:
    core = SteppedCore(reference_checkpoint("tokens", CONTEXT), capacity=1)
    session = core.session(CALL)
    go_on(core, session, 0, 3)
    good = unpack_snapshot(compact(core, session, end=True))
    bad = replace(good, row=replace(good.row, side=SideInputs({}, {1: reference})))
    with pytest.raises(InputError, match="reference"):
        core.session(PLAIN, resume=pack_snapshot(bad))


def test_references_older_than_the_cache_are_forgotten() -> None:
    step = FrameStep(reference_checkpoint("tokens", 8), 1)
    for pcm in NOISE[:30]:
        step.run([RowInput(row=0, pcm=pcm, reference=5)])
    assert list(step.save_row(0, compact=True).side.references) == list(range(22, 30))
    assert len(step._side[0].references) == 9
