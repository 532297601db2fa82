"""The language model against Kyutai's: the logits of a whole conversation, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent.models import loaders
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.conditioners import ConditionAttributes, ConditionType, TensorCondition

Check = Callable[..., None]

GENERATING = ["moshi", "hibiki", "stt", "personaplex", "grouped_query"]
OTHERS = [
    "two_text_streams",
    "embedding_norms",
    "plain_feed_forward",
    "sin_rope",
    "rope_concat",
    "no_positions",
    "hashed_conditions",
    "faint_rms_norm",
    "faint_rms_norm_f32",
    "faint_layer_norm",
    "faint_layer_norm_f32",
]
WITH_CONDITIONS = ["hibiki", "hashed_conditions"]


def _load(case: Any) -> LMModel:
    return loaders.get_moshi_lm(case.weights, case.json(), device="cpu", dtype=torch.float32)


def _peer_conditions(peer: dict[str, Tensor]) -> dict[str, ConditionType] | None:
    names = [key.partition(".")[2] for key in peer if key.startswith("condition.")]
    return {
        name: ConditionType(peer[f"condition.{name}"], peer[f"condition_mask.{name}"]) for name in names
    } or None


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", GENERATING + OTHERS)
@torch.no_grad()
def test_forward_logits_are_the_peers(golden, assert_close: Check, name: str, packed: bool) -> None:
    peer = golden(f"lm/{name}").tensors("forward")
    lm = _load(golden(f"lm/{name}"))
    if packed:
        lm.pack("float32")
    out = lm(peer["codes"], _peer_conditions(peer))
    assert_close(out.text_logits, peer["text_logits"])
    assert torch.equal(out.text_mask, peer["text_mask"])
    if lm.dep_q:
        assert_close(out.logits, peer["logits"])
        assert torch.equal(out.mask, peer["mask"])
    else:
        assert out.logits.shape[1] == out.mask.shape[1] == 0


@pytest.mark.parametrize("name", WITH_CONDITIONS)
@torch.no_grad()
def test_conditions_are_the_peers(golden, assert_close: Check, name: str) -> None:
    """Texts from a list and by their hash, texts not given, and tensors of several lengths, one of them 0."""
    case = golden(f"lm/{name}")
    peer, texts, lm = case.tensors("forward"), case.json("texts"), _load(case)
    tensors = [key.partition(".")[2] for key in peer if key.startswith("given.")]
    attributes = [
        ConditionAttributes(
            text={key: values[row] for key, values in texts.items()},
            tensor={
                key: TensorCondition(peer[f"given.{key}"][row, None], peer[f"given_mask.{key}"][row, None])
                for key in tensors
            },
        )
        for row in range(len(peer["codes"]))
    ]
    assert lm.condition_provider is not None
    provided = lm.condition_provider.prepare_and_provide(attributes)
    assert sorted(provided) == sorted([*texts, *tensors])
    for key, (condition, mask) in provided.items():
        assert_close(condition, peer[f"condition.{key}"])
        assert torch.equal(mask, peer[f"condition_mask.{key}"])
