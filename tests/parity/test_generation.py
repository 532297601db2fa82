"""Greedy generation against Kyutai's, in desynchronised batches, over three times the context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent.models import LMGen, loaders
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.conditioners import ConditionType

Check = Callable[..., None]

KINDS = ["moshi", "hibiki", "stt", "personaplex", "grouped_query"]
FREE = -2  # a token for the model to choose
NEAR_TIE = 1e-4  # of the peer's own two best logits; a choice this close may fall either way
EXCEPTIONS_ALLOWED = 0.005  # of all tokens


@dataclass
class Replay:
    """What our LMGen made of the peer's inputs; one entry per step."""

    out: list[Tensor] = field(default_factory=list)  # [B, 1 + dep_q]
    chosen: list[Tensor] = field(default_factory=list)  # [B, 1 + dep_q]
    text_logits: list[Tensor] = field(default_factory=list)  # [B, text_card_out]


def _conditions(peer: dict[str, Tensor], rows: int | None = None) -> dict[str, ConditionType] | None:
    names = [key.partition(".")[2] for key in peer if key.startswith("condition.")]
    given = {
        name: (peer[f"condition.{name}"][:rows], peer[f"condition_mask.{name}"][:rows]) for name in names
    }
    return {name: ConditionType(*one) for name, one in given.items()} or None


def _forced_text(peer: dict[str, Tensor]) -> Tensor | None:
    """[steps, B, 1 + dep_q]: the text that was given, in the one case that gives some."""
    if "forced_text" not in peer:
        return None
    forced = torch.full_like(peer["sampled"], FREE)
    forced[:, :, 0] = peer["forced_text"]
    return forced


def _steps(generator: LMGen, peer: dict[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Resets and masks rows as the peer did; gives each step's number and user codes, [B, K, 1]."""
    with generator.streaming(peer["executed"].shape[1]):
        for step, user in enumerate(peer["user"]):
            if peer["resets"][step].any():
                generator.reset_streaming(peer["resets"][step])
            generator.set_exec_mask(peer["executed"][step])
            yield step, user[:, :, None]


def _replay(lm: LMModel, peer: dict[str, Tensor], forced: Tensor | None, **options: Any) -> Replay:
    """forced: [steps, B, 1 + dep_q] or None."""
    replay = Replay()
    generator = LMGen(
        lm,
        use_sampling=False,
        support_out_of_sync=True,
        condition_tensors=_conditions(peer),
        on_text_logits_hook=lambda logits: replay.text_logits.append(logits[:, 0, 0].clone()),
        **options,
    )
    for step, user in _steps(generator, peer):
        out = generator.step(user, forced_tokens=None if forced is None else forced[step, :, :, None])
        assert generator.last_sampled is not None
        replay.chosen.append(generator.last_sampled)
        assert out is not None, "with support_out_of_sync it is a tensor from the first step on"
        replay.out.append(out[:, :, 0])
    return replay


def _fed_the_peers_history(lm: LMModel, peer: dict[str, Tensor], assert_close: Check, **options: Any) -> None:
    """Every choice must be the peer's, near ties aside, and they are printed."""
    executed, sampled = peer["executed"], peer["sampled"]
    replay = _replay(lm, peer, sampled, **options)
    chosen = torch.stack(replay.chosen)
    assert_close(torch.stack(replay.text_logits)[executed], peer["text_logits"][executed])
    counted = executed[:, :, None].expand_as(sampled).clone()
    if "forced_text" in peer:
        counted[:, :, 0] &= peer["forced_text"] == FREE
    different = (chosen != sampled) & counted
    for step, row, stream in different.nonzero().tolist():
        gap = peer["gap"][step, row, stream].item()
        ours, theirs = chosen[step, row, stream].item(), sampled[step, row, stream].item()
        print(
            f"step {step}, row {row}, stream {stream}: ours {ours}, the peer's {theirs}, ahead by {gap:.1e}"
        )
        assert gap < NEAR_TIE
    assert different.sum() <= EXCEPTIONS_ALLOWED * counted.sum()
    assert torch.equal(torch.stack(replay.out), peer["out"])


@pytest.fixture(params=["plain", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return request.param == "packed"


def _load(case: Any, packed: bool) -> LMModel:
    lm = loaders.get_moshi_lm(case.weights, case.json(), device="cpu", dtype=torch.float32)
    if packed:
        lm.pack("float32")
    return lm


@pytest.mark.parametrize("name", KINDS)
def test_fed_the_peers_history_every_choice_is_the_peers(
    golden, assert_close: Check, name: str, packed: bool
) -> None:
    case = golden(f"lm/{name}")
    peer = case.tensors("generate")
    assert peer["executed"][:, 0].sum() > 3 * case.json()["context"] and not peer["resets"][:, 0].any()
    _fed_the_peers_history(_load(case, packed), peer, assert_close)


@pytest.mark.parametrize("name", KINDS)
def test_running_free_it_says_what_the_peer_says(golden, name: str) -> None:
    """No choice of these recordings is near a tie, so nothing excuses a token that differs."""
    case = golden(f"lm/{name}")
    peer = case.tensors("generate")
    assert peer["gap"][peer["executed"]].min() > NEAR_TIE
    replay = _replay(_load(case, True), peer, _forced_text(peer))
    assert torch.equal(torch.stack(replay.out), peer["out"])


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_the_peers_history_read_at_once_gives_the_logits_of_its_steps(
    golden, assert_close: Check, name: str, packed: bool
) -> None:
    """Row 0 is never reset, so what it was fed, step by step, is one sequence."""
    case = golden(f"lm/{name}")
    peer, lm = case.tensors("generate"), _load(case, packed)
    ran = peer["executed"][:, 0]
    sequence = peer["history"][ran, 0].T[None]  # [1, 1 + n_q, steps]
    _, text_logits = lm.temporal(sequence, conditions=lm.fuse(_conditions(peer, rows=1)))
    assert_close(text_logits[0], peer["text_logits"][ran, 0])


def test_extra_heads_are_the_peers(golden, assert_close: Check) -> None:
    case = golden("lm/stt")
    peer = case.tensors("generate")
    generator = LMGen(_load(case, True), use_sampling=False, support_out_of_sync=True)
    ours: list[Tensor] = []  # of each step, [rows that ran, heads, dim]
    for step, user in _steps(generator, peer):
        result = generator.step_with_extra_heads(user)
        assert result is not None
        out, heads = result
        assert torch.equal(out[:, :, 0], peer["out"][step])
        ours.append(torch.stack(heads)[:, :, 0].transpose(0, 1)[peer["executed"][step]])
    assert_close(torch.cat(ours), peer["extra_heads"].transpose(1, 2)[peer["executed"]])


@pytest.mark.parametrize("name", KINDS)
def test_one_stream_waits_as_long_as_the_peer_for_its_first_output(golden, name: str) -> None:
    case = golden(f"lm/{name}")
    whole = case.tensors("generate")
    peer = {key.removeprefix("in_step."): value for key, value in whole.items() if key.startswith("in_step.")}
    generator = LMGen(_load(case, False), use_sampling=False, condition_tensors=_conditions(whole, rows=1))
    forced = torch.full((len(peer["user"]), 1, 1 + generator.lm_model.dep_q), FREE)
    if "forced_text" in peer:
        forced[:, :, 0] = peer["forced_text"]
    outs = [
        generator.step(user, forced_tokens=forced[step, :, :, None]) for step, user in _steps(generator, peer)
    ]
    assert [out is None for out in outs] == peer["returned_none"].tolist()
    assert torch.equal(torch.stack([out[:, :, 0] for out in outs if out is not None]), peer["out"])


@pytest.mark.parametrize("form", ["conditions", "masked_until", "no_text"])
def test_guidance_is_the_peers(golden, assert_close: Check, form: str) -> None:
    case = golden("lm/hibiki")
    whole = case.tensors("guidance")
    peer = {key.removeprefix(f"{form}."): value for key, value in whole.items() if key.startswith(f"{form}.")}
    peer |= {key: value for key, value in whole.items() if key.startswith("condition")}
    _fed_the_peers_history(_load(case, False), peer, assert_close, **case.json("guidance")[form])
