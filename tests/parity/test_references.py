"""KAME and MoshiRAG against their own packages: models that are told what was found elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent.config import ReferenceEncoderConfig, SamplingConfig
from moshi_agent.models import LMGen, loaders
from moshi_agent.models.conditioning import choose_conditions
from moshi_agent.models.generator import Generator, StepInput
from moshi_agent.models.lm import LMModel
from moshi_agent.models.prefill import prefill
from moshi_agent.models.reference_encoder import ReferenceEncoder
from moshi_agent.nn.conditioners import ConditionAttributes
from moshi_agent.nn.sampling import RowSampling

Check = Callable[..., None]

SPEAKERS = ["SPEAKER_MAIN", "SPEAKER_OTHER"]


@pytest.fixture(params=["plain", "packed"])
def load(golden, request: pytest.FixtureRequest) -> Callable[[str], LMModel]:
    def load(name: str) -> LMModel:
        case = golden(f"lm/{name}")
        lm = loaders.get_moshi_lm(case.weights, case.json(), device="cpu", dtype=torch.float32)
        if request.param == "packed":
            lm.pack("float32")
        return lm

    return load


@torch.no_grad()
def test_kame_reads_a_conversation_as_its_own_package_does(load, golden, assert_close: Check) -> None:
    theirs, lm = golden("lm/kame").tensors("forward"), load("kame")
    assert lm.takes_references == "tokens"
    out = lm(theirs["codes"], references=theirs["references"])
    assert_close(out.text_logits, theirs["text_logits"])
    assert_close(out.logits, theirs["logits"])
    none, padding = lm(theirs["codes"]), torch.full_like(theirs["references"], lm.text_padding_token_id)
    assert torch.equal(none.text_logits, lm(theirs["codes"], references=padding).text_logits)
    assert not torch.allclose(none.text_logits, out.text_logits, atol=0.1, equal_nan=True)


def test_kame_says_what_its_own_package_says(load, golden, assert_close: Check) -> None:
    """Two answers, the second of which comes while the first is being read, and padding in between."""
    theirs, lm = golden("lm/kame").tensors("generate"), load("kame")
    generator, logits = new_generator(lm)
    with generator.streaming(1):
        for user, token, out in zip(theirs["user"], theirs["references"], theirs["out"], strict=True):
            # A frame without a reference is one of padding.
            given = None if token == lm.text_padding_token_id else token[None]
            ours = generator.step(user[:, :, None], references=given)
            assert ours is not None and torch.equal(ours[:, :, 0], out)
    assert_close(torch.stack(logits), theirs["text_logits"])


def test_moshirag_says_what_its_own_package_says(load, golden, assert_close: Check) -> None:
    """Two rows with speakers, references and times of their own, one of which begins anew."""
    theirs, lm = golden("lm/moshirag").tensors("generate"), load("moshirag")
    reset_at = int(theirs["reset_at"])
    assert lm.takes_references == "rows" and lm.config.reference_token_id == 4
    generator, logits = new_generator(lm)
    with generator.streaming(2):
        for step, (user, rows) in enumerate(zip(theirs["user"], projected(lm, theirs), strict=True)):
            if step == reset_at:
                generator.reset_streaming(torch.tensor([False, True]))
            ours = generator.step(user[:, :, None], references=rows)
            compared = slice(None) if step < reset_at else slice(1, None)  # their resets reach other rows
            assert ours is not None and torch.equal(ours[compared, :, 0], theirs["out"][step, compared])
            assert_close(logits[-1][compared], theirs["text_logits"][step, compared])


def new_generator(lm: LMModel) -> tuple[LMGen, list[Tensor]]:
    """Greedy, with the list of text logits that it will fill, [B, text_card] a step."""
    conditions = None
    if lm.condition_provider is not None:
        attributes = [ConditionAttributes(text={"first_speaker": one}) for one in SPEAKERS]
        with torch.no_grad():
            conditions = lm.condition_provider.prepare_and_provide(attributes)
    logits: list[Tensor] = []
    generator = LMGen(
        lm,
        use_sampling=False,
        support_out_of_sync=True,
        condition_tensors=conditions,
        on_text_logits_hook=lambda one: logits.append(one[:, 0, 0].clone()),
    )
    return generator, logits


def projected(lm: LMModel, theirs: dict[str, Tensor]) -> Iterator[Tensor]:
    """What each row is told in each step, [B, dim]; a new reference replaces the rest of an old one."""
    found = {(int(step), int(row)): one for (step, row), one in _found(theirs)}
    queues: list[Any] = [[], []]
    for step in range(len(theirs["user"])):
        for row in range(2):
            if (step, row) in found:
                with torch.no_grad():
                    queues[row] = list(lm.project_references(found[step, row]))
        nothing = torch.zeros(lm.config.temporal.dim)
        yield torch.stack([queue.pop(0) if queue else nothing for queue in queues])


def _found(theirs: dict[str, Tensor]) -> Iterator[tuple[list[str], Tensor]]:
    return ((name.split(".")[1:], one) for name, one in theirs.items() if name.startswith("found."))


@torch.no_grad()
def test_what_comes_before_the_first_step_is_read_by_a_whole_conversation_too(load) -> None:
    """A forward pass agrees with steps, and steps with many of them read ahead."""
    lm = load("moshirag")
    conditions = lm.fuse(choose_conditions(lm))
    assert conditions.positions == 1
    generator = Generator(lm, conditions)
    tokens = torch.randint(20, (12, lm.num_codebooks), generator=torch.Generator().manual_seed(0))
    read = lm.delayed(tokens.T[None])
    whole, _ = lm.temporal(read, conditions=conditions)
    stepped, ahead, steps = (generator.init_state(1) for _ in range(3))
    for state in (stepped, ahead, steps):
        generator.begin(state)
    hidden = [lm.temporal(one, stepped.temporal)[0] for one in read.split(1, dim=2)]
    torch.testing.assert_close(torch.cat(hidden, dim=1), whole, rtol=0, atol=1e-4)
    assert not torch.allclose(whole, lm.temporal(read)[0], atol=0.1)
    prefill(generator, ahead, tokens)
    sampling = RowSampling(1, torch.device("cpu"), SamplingConfig(greedy=True))
    for one in tokens[:, None]:
        given = StepInput(user=one[:, 1 + lm.dep_q :], forced=one[:, : 1 + lm.dep_q])
        generator.advance(steps, given, sampling)
    assert int(ahead.temporal.offset) == int(steps.temporal.offset) == 13
    torch.testing.assert_close(ahead.temporal.kv, steps.temporal.kv, rtol=0, atol=1e-4)


def test_the_encoder_makes_the_rows_of_the_original(golden, assert_close: Check) -> None:
    case = golden("reference_encoder")
    theirs, model = case.tensors("rows"), ReferenceEncoder(ReferenceEncoderConfig(**case.json()))
    model.load_state_dict(case.tensors("model"))
    lengths = [int(name.split(".")[1]) for name in theirs if name.startswith("tokens.")]
    assert min(lengths) == 1 and max(lengths) > 16
    with torch.no_grad():
        for n in lengths:
            assert_close(model(theirs[f"tokens.{n}"]), theirs[f"rows.{n}"], relative=True)
