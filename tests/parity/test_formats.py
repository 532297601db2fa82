"""The other formats of the same models: LoRA, int8, and those of Hugging Face Transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent.models import loaders
from moshi_agent.models.lm import LMModel

Check = Callable[..., None]


def _assert_forward(lm: LMModel, peer: dict[str, Tensor], assert_close: Check) -> None:
    with torch.no_grad():
        out = lm(peer["codes"])
    assert_close(out.text_logits, peer["text_logits"])
    assert_close(out.logits, peer["logits"])
    assert torch.equal(out.mask, peer["mask"])


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "kept"])
@pytest.mark.parametrize("name", ["lora", "lora_first_names"])
def test_lora_moves_the_logits_as_the_peers_does(golden, assert_close: Check, name: str, fuse: bool) -> None:
    case = golden("lora")
    lm = loaders.get_moshi_lm(
        golden("lm/moshi").weights,
        case.json(),
        device="cpu",
        dtype=torch.float32,
        lora_weights=case.folder / f"{name}.safetensors",
        fuse_lora=fuse,
    )
    _assert_forward(lm, case.tensors("forward"), assert_close)


def test_int8_weights_stand_for_the_floats_that_the_peer_means(golden, assert_close: Check) -> None:
    case = golden("q8")
    peer = case.tensors("forward")
    lm = loaders.get_moshi_lm(case.weights, case.json(), device="cpu", dtype=torch.float32)
    _assert_forward(lm, peer, assert_close)
    # The peer's own int8 layers compute in float16: near, and so the same weights are meant.
    off = (peer["peer.text_logits"] - peer["text_logits"]).abs().max()
    assert off < 0.05 * peer["text_logits"].std()


@torch.no_grad()
def _assert_codec(mimi: Any, peer: dict[str, Tensor], assert_close: Check, assert_same_codes: Check) -> None:
    mimi.set_num_codebooks(peer["codes"].shape[1])
    assert_same_codes(mimi.encode(peer["speech"]), peer["codes"])
    assert_close(mimi.decode(peer["codes"]), peer["decoded"], relative=True)


def _load_folder(folder: Path) -> Any:
    from moshi_agent.checkpoint import load_checkpoint

    return load_checkpoint(folder, device="cpu", dtype=torch.float32)


def test_a_codec_saved_by_transformers_is_the_same_codec(
    golden, assert_close: Check, assert_same_codes: Check
) -> None:
    case = golden("hf_mimi")
    checkpoint = _load_folder(case.folder / "checkpoint")
    assert checkpoint.lm is None
    assert checkpoint.tokenizer is None
    _assert_codec(checkpoint.mimi, case.tensors("data"), assert_close, assert_same_codes)


def test_a_sharded_moshi_saved_by_transformers_is_the_same_model(
    golden, assert_close: Check, assert_same_codes: Check
) -> None:
    case = golden("hf_moshi")
    peer = case.tensors("data")
    folder = case.folder / "checkpoint"
    shards = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(shards.values())) > 1
    checkpoint = _load_folder(folder)
    assert checkpoint.tokenizer is None
    _assert_codec(checkpoint.mimi, peer, assert_close, assert_same_codes)
    _assert_forward(checkpoint.lm, peer | {"codes": peer["lm_codes"]}, assert_close)
