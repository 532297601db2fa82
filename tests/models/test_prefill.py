"""Forced tokens read ahead leave what their steps leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.models import prefill as module
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.models.guidance import Guidance
from moshi_agent.models.lm import Conditions, LMModel
from moshi_agent.models.prefill import prefill, recall
from moshi_agent.nn.sampling import RowSampling
from tests.small_models import small_lm

CONTEXT = 24
SAMPLED = SamplingConfig(seed=3, top_k=20)


@pytest.fixture(params=["plain", "packed"])
def lm(request: pytest.FixtureRequest) -> LMModel:
    lm = small_lm(CONTEXT)
    if request.param == "packed":
        lm.pack("float32")
    return lm


def tokens(steps: int, seed: int = 0) -> Tensor:
    """[steps, 5]: what is forced, then what the user says."""
    return torch.randint(32, (steps, 5), generator=torch.Generator().manual_seed(seed))


def take_step(generator: Generator, state: LMGenState, user: Tensor, forced: Tensor | None = None) -> Tensor:
    given = StepInput(user=user[None], forced=None if forced is None else forced[None])
    sampling = RowSampling(1, torch.device("cpu"), SAMPLED)
    return generator.advance(state, given, sampling).text_logits


def stepped(generator: Generator, state: LMGenState, forced: Tensor) -> None:
    for row in forced:
        take_step(generator, state, row[3:], row[:3])


def continuations(generator: Generator, states: list[LMGenState]) -> list[tuple[Tensor, Tensor]]:
    """What follows, drawn by chance: tokens [30, 3] and logits [30, text_card] of each."""
    followed: list[tuple[Tensor, Tensor]] = []
    for state in states:
        frames: list[Tensor] = []
        logits: list[Tensor] = []
        for user in tokens(30, seed=9)[:, :2]:
            logits.append(take_step(generator, state, user))
            frame = generator.ring.newest_frame(state.ring, None)
            assert frame is not None
            frames.append(frame[0, :, 0])
        followed.append((torch.stack(frames), torch.cat(logits)))
    return followed


def assert_goes_on_the_same(generator: Generator, ahead: LMGenState, one_by_one: LMGenState) -> None:
    assert torch.equal(ahead.ring.tokens, one_by_one.ring.tokens)
    assert torch.equal(ahead.ring.offset, one_by_one.ring.offset)
    (ours, ours_logits), (theirs, theirs_logits) = continuations(generator, [ahead, one_by_one])
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours_logits, theirs_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
@torch.inference_mode()
def test_it_leaves_what_the_steps_leave(lm: LMModel, steps: int) -> None:
    generator = Generator(lm)
    ahead, one_by_one = generator.init_state(1), generator.init_state(1)
    prefill(generator, ahead, tokens(steps))
    stepped(generator, one_by_one, tokens(steps))
    assert_goes_on_the_same(generator, ahead, one_by_one)


@pytest.mark.parametrize("kv_int8", [False, True])
@torch.inference_mode()
def test_piece_by_piece_and_between_steps(
    lm: LMModel, kv_int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_POSITIONS", 5)
    generator = Generator(lm)
    ahead, one_by_one = generator.init_state(1, kv_int8), generator.init_state(1, kv_int8)
    for state, take in ((ahead, prefill), (one_by_one, stepped)):
        take_step(generator, state, tokens(1)[0, 3:])
        take(generator, state, tokens(13))
        take_step(generator, state, tokens(1)[0, 3:])
        take(generator, state, tokens(1, seed=4))
        take(generator, state, tokens(7, seed=5))
    if not kv_int8:
        assert_goes_on_the_same(generator, ahead, one_by_one)
    torch.testing.assert_close(ahead.temporal.offset, one_by_one.temporal.offset)


@torch.inference_mode()
def test_only_its_row_is_written(lm: LMModel) -> None:
    generator = Generator(lm)
    alone, three = generator.init_state(1), generator.init_state(3)
    for state in (alone, three.one_row(1)):
        prefill(generator, state, tokens(9))
    assert [torch.equal(a[0], b[1]) for a, b in zip(alone.tensors(), three.tensors(), strict=True)] == [
        True
    ] * 4
    assert all(not tensor[[0, 2]].any() for tensor in three.tensors())


@torch.inference_mode()
def test_embeddings_are_read_in_place_of_tokens(lm: LMModel) -> None:
    """Those of the very tokens change nothing, in whichever tokens' place they stand; others do."""
    generator = Generator(lm)
    states = [generator.init_state(1) for _ in range(3)]
    prefill(generator, states[0], tokens(12))
    columns = module._columns(generator.ring, generator.init_state(1).ring, tokens(12))  # pyright: ignore[reportPrivateUsage]
    embeddings = lm.embed(columns[None])[0, :8]
    other_beginning = torch.cat([tokens(6, seed=7), tokens(12)[6:]])
    prefill(generator, states[1], other_beginning, embeddings)
    prefill(generator, states[2], tokens(12), 2 * embeddings)
    assert torch.equal(states[0].temporal.kv, states[1].temporal.kv)
    assert not torch.equal(states[0].temporal.kv, states[2].temporal.kv)
    assert torch.equal(states[0].ring.tokens, states[1].ring.tokens)


@torch.inference_mode()
def test_with_guidance_both_halves_are_read() -> None:
    generator = Generator(
        small_lm(CONTEXT), guidance=Guidance(coef=2.0, conditions=Conditions(), no_text=True)
    )
    ahead, one_by_one = generator.init_state(1), generator.init_state(1)
    prefill(generator, ahead, tokens(9))
    stepped(generator, one_by_one, tokens(9))
    assert_goes_on_the_same(generator, ahead, one_by_one)
    assert one_by_one.temporal_null is not None
    assert ahead.temporal_null is not None
    assert torch.equal(ahead.temporal_null.kv, one_by_one.temporal_null.kv)


def guided() -> Generator:
    guidance = Guidance(coef=2.0, conditions=Conditions(), no_text=True, masked_until=torch.tensor([3]))
    return Generator(small_lm(CONTEXT), guidance=guidance, history=CONTEXT)


@pytest.mark.parametrize("kind", ["plain", "packed", "guided"])
@pytest.mark.parametrize("steps", [1, 2, 7, CONTEXT])
@torch.inference_mode()
def test_steps_read_again_leave_what_they_left(kind: str, steps: int) -> None:
    """In pieces, into empty caches, by the tokens that the ring has kept."""
    lm = small_lm(CONTEXT)
    if kind == "packed":
        lm.pack("float32")
    generator = guided() if kind == "guided" else Generator(lm, history=CONTEXT)
    stayed, moved = generator.init_state(1), generator.init_state(1)
    for user in tokens(steps)[:, 3:]:
        take_step(generator, stayed, user)
    moved.ring.load_row(0, stayed.ring.save_row(0))
    for first in range(0, steps, 5):
        recall(generator, moved, range(first, min(first + 5, steps)))
    for ours, theirs in zip(moved.tensors(), stayed.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    (ours, ours_logits), (theirs, theirs_logits) = continuations(generator, [moved, stayed])
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours_logits, theirs_logits, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_embeddings_are_read_again_in_place_of_tokens(lm: LMModel) -> None:
    generator = Generator(lm, history=CONTEXT)
    stayed, moved = generator.init_state(1), generator.init_state(1)
    embeddings = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    prefill(generator, stayed, tokens(9), embeddings)
    moved.ring.load_row(0, stayed.ring.save_row(0))
    recall(generator, moved, range(3), dict(enumerate(embeddings[:3])))
    recall(generator, moved, range(3, 9), {3: embeddings[3]})
    torch.testing.assert_close(moved.temporal.kv, stayed.temporal.kv)


@torch.inference_mode()
def test_a_ring_with_a_history_has_what_one_without_has(lm: LMModel) -> None:
    """Prompts longer than the ring, too."""
    for steps in (1, 5, 3 * CONTEXT):
        rings = []
        for history in (0, CONTEXT):
            generator = Generator(lm, history=history)
            state = generator.init_state(1)
            prefill(generator, state, tokens(steps))
            take_step(generator, state, tokens(1)[0, 3:])
            read = [generator.ring.read_again(state.ring, torch.tensor([steps]))[0]]
            for user in tokens(3, seed=4)[:, 3:]:
                take_step(generator, state, user)
                frame = generator.ring.newest_frame(state.ring, None)
                assert frame is not None
                read.append(frame[:, :, 0])
            rings.append(torch.cat(read, dim=1))
        assert torch.equal(*rings)
