"""LoRA and int8 files, as Kyutai's package writes and reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from moshi.modules.lora import LoRALinear
from moshi.utils.quantize import QLinear
from torch import Tensor, nn

from recipes.common import randomise, seeded, write_json, write_tensors
from recipes.lm import forward, load_lm, random_codes, stacked_names
from recipes.lm_configs import GENERATING

_ROWS, _STEPS = 2, 20
_LORA = {"lora": True, "lora_rank": 4, "lora_scaling": 1.5}


@torch.no_grad()
def write_lora(root: Path) -> None:
    """Low-rank weights over `lm/moshi`, under their present and their first names, and the fused logits."""
    base = root / "lm" / "moshi"
    config = json.loads((base / "config.json").read_text()) | _LORA
    folder = root / "lora"
    write_json(folder / "config.json", config)
    lora = _random_lora(load_lm(base / "model.safetensors", config))
    write_tensors(folder / "lora.safetensors", lora)
    write_tensors(folder / "lora_first_names.safetensors", stacked_names(lora))
    codes = random_codes(config, _ROWS, _STEPS, seed=8)
    outputs = {"codes": codes.to(torch.int16)}
    for name in ("lora", "lora_first_names"):
        path = folder / f"{name}.safetensors"
        lm = load_lm(base / "model.safetensors", config, lora_weights=path, fuse_lora=True)
        logits = forward(lm, codes, None)
        assert all(
            torch.equal(outputs.setdefault(key, one).nan_to_num(), one.nan_to_num())
            for key, one in logits.items()
        )
    write_tensors(folder / "forward.safetensors", outputs)
    without = forward(load_lm(base / "model.safetensors", GENERATING["moshi"]), codes, None)["text_logits"]
    print(f"lora: moves text logits by {float((without - outputs['text_logits']).std()):.2f}")


def _random_lora(lm: nn.Module) -> dict[str, Tensor]:
    """lora_A [rank, in] and lora_B [out, rank] for every linear layer."""
    generator = seeded(9)
    tensors = {}
    for name, module in lm.named_modules():
        if isinstance(module, LoRALinear):
            a = torch.randn(module.rank, module.in_features, generator=generator) / module.in_features**0.5
            b = 0.2 * torch.randn(module.out_features, module.rank, generator=generator)
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    return tensors


@torch.no_grad()
def write_q8(root: Path) -> None:
    """An int8 file, and two sets of logits.

    The peer's own int8 layers compute in float16, and on a GPU round their inputs to 8 bits as well. So the
    reference is the peer's float model over the weights that the file stands for, weight * weight_scb / 127;
    the logits of its int8 layers are kept beside it, for a loose comparison.
    """
    config: dict[str, Any] = GENERATING["moshi"] | {"quantize": True}
    folder = root / "q8"
    exact = load_lm(None, GENERATING["moshi"])
    randomise(exact, seed=10)
    state = dict(exact.state_dict())
    for name, module in exact.named_modules():
        if isinstance(module, nn.Linear):
            quantised = QLinear(module)
            state[f"{name}.weight"] = quantised.weight.data
            state[f"{name}.weight_scb"] = quantised.weight_scb.data
            module.weight.copy_(quantised.weight * quantised.weight_scb[:, None] / 127)
    write_tensors(folder / "model.safetensors", stacked_names(state, in_proj="in_proj.weight"))
    write_json(folder / "config.json", config)
    codes = random_codes(config, _ROWS, _STEPS, seed=11)
    outputs = {"codes": codes.to(torch.int16)} | forward(exact, codes, None)
    peer = forward(load_lm(folder / "model.safetensors", config), codes, None)
    outputs |= {"peer.logits": peer["logits"].float(), "peer.text_logits": peer["text_logits"].float()}
    write_tensors(folder / "forward.safetensors", outputs)
    error = (peer["text_logits"].float() - outputs["text_logits"]).std() / outputs["text_logits"].std()
    print(f"q8: the peer's int8 text logits are off by {float(error):.3f} of their spread")


def write_all(root: Path) -> None:
    write_lora(root)
    write_q8(root)
