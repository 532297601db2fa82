"""The language model: forward logits of Kyutai's package."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from moshi.conditioners import ConditionAttributes, ConditionTensors, TensorCondition
from moshi.models import loaders
from moshi.models.lm import LMModel
from moshi.models.lm_utils import _delay_sequence, _undelay_sequence
from moshi.modules.transformer import RMSNorm
from torch import Tensor, nn

from recipes.common import randomise, seeded, write_json, write_tensors
from recipes.lm_configs import FAINT, FAINTNESS, GENERATING, OTHERS, published_attention_names

_TEXTS = {"description": ["good", None, "very_bad", "bad"], "genre": ["jazz", None, "fado", "rai"]}
_TEXTS["mood"] = [None, "calm", "sad", "wild"]


def load_lm(path: Path | None, config: dict[str, Any], **kwargs: Any) -> LMModel:
    # The peer's loader writes into the nested dictionaries of what it is given.
    return loaders.get_moshi_lm(path, copy.deepcopy(config), device="cpu", dtype=torch.float32, **kwargs)


def make_lm(folder: Path, config: dict[str, Any], seed: int, faint: bool = False) -> LMModel:
    """Writes a random model as a checkpoint and returns what the peer reads from it."""
    lm = load_lm(None, config)
    randomise(lm, seed)
    if faint:
        with torch.no_grad():
            for embedding in (lm.text_emb, *lm.emb):
                embedding.weight *= FAINTNESS[config["norm"]]
    state = lm.state_dict()
    write_tensors(
        folder / "model.safetensors", stacked_names(state) if published_attention_names(config) else state
    )
    write_json(folder / "config.json", config)
    return load_lm(folder / "model.safetensors", config)


def stacked_names(state: dict[str, Tensor], in_proj: str = "in_proj_weight") -> dict[str, Tensor]:
    """One tensor per attention projection, the weights of all depth steps one after the other."""
    stacked: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        name = re.sub(r"self_attn\.in_projs\.\d+\.weight", f"self_attn.{in_proj}", name)
        name = re.sub(r"self_attn\.(in|out)_projs\.\d+\.", r"self_attn.\1_proj.", name)
        stacked.setdefault(name, []).append(tensor)
    return {name: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for name, tensors in stacked.items()}


def condition_inputs(config: dict[str, Any], rows: int, seed: int) -> dict[str, Any]:
    """What a caller gives: texts per row, and tensors [rows, S, D] with a mask [rows, S]."""
    generator = seeded(seed)
    texts, tensors = {}, {}
    for name, conditioner in (config.get("conditioners") or {}).items():
        if conditioner["type"] == "lut":
            texts[name] = [_TEXTS[name][row % 4] for row in range(rows)]
        else:
            value = torch.randn(rows, 5, conditioner["tensor"]["dim"], generator=generator)
            lengths = torch.tensor([5, 3, 1, 0])[torch.arange(rows) % 4]
            tensors[name] = value, torch.arange(5) < lengths[:, None]
    return {"texts": texts, "tensors": tensors}


def provide_conditions(lm: LMModel, inputs: dict[str, Any], rows: int) -> ConditionTensors | None:
    if lm.fuser is None:
        return None
    attributes = [
        ConditionAttributes(
            text={name: texts[row] for name, texts in inputs["texts"].items()},
            tensor={
                name: TensorCondition(value[row : row + 1], mask[row : row + 1])
                for name, (value, mask) in inputs["tensors"].items()
            },
        )
        for row in range(rows)
    ]
    return lm.condition_provider.prepare_and_provide(attributes)


def condition_outputs(inputs: dict[str, Any], conditions: ConditionTensors | None) -> dict[str, Tensor]:
    """The caller's tensors and what the peer's conditioners made of everything."""
    out = {}
    for name, (value, mask) in inputs["tensors"].items():
        out |= {f"given.{name}": value, f"given_mask.{name}": mask}
    for name, (value, mask) in (conditions or {}).items():
        out |= {f"condition.{name}": value, f"condition_mask.{name}": mask}
    return out


def random_codes(config: dict[str, Any], rows: int, steps: int, seed: int) -> Tensor:
    """[rows, 1 + n_q, steps], some of them -1, which stands for no input and no loss."""
    generator = seeded(seed)
    text_card = config["text_card"]
    if config.get("demux_second_stream"):
        text_card = (text_card + 1) * text_card  # both streams in one number
    text = torch.randint(text_card, (rows, 1, steps), generator=generator)
    audio = torch.randint(config["card"], (rows, config["n_q"], steps), generator=generator)
    codes = torch.cat([text, audio], dim=1)
    return torch.where(torch.rand(codes.shape, generator=generator) < 0.05, -1, codes)


def forward(lm: LMModel, codes: Tensor, conditions: ConditionTensors | None) -> dict[str, Tensor]:
    """The fields of the peer's LMOutput; positions without a prediction hold NaN."""
    if lm.dep_q > 0:
        _accept_two_dimensions(lm.depformer_norms)
        out = lm(codes, conditions)
        return {
            "logits": out.logits,
            "mask": out.mask,
            "text_logits": out.text_logits,
            "text_mask": out.text_mask,
        }
    # The peer's forward needs a depth transformer; this is the rest of it.
    initial = lm._get_initial_token().expand(len(codes), -1, -1)
    sequence = torch.cat([initial, _delay_sequence(lm.delays, codes, initial)], dim=2)[:, :, :-1]
    _, text_logits = lm.forward_text(sequence)
    text_logits, text_mask = _undelay_sequence(lm.delays[:1], text_logits)
    return {"text_logits": text_logits, "text_mask": text_mask & (codes[:, :1] != -1)}


def _accept_two_dimensions(norms: nn.ModuleList) -> None:
    """The peer's forward gives its RMS norms [N, D], which they refuse; its generation gives [B, 1, D]."""
    for norm in norms:
        if isinstance(norm, RMSNorm):
            norm.register_forward_pre_hook(lambda _, args: (args[0][:, None],))
            norm.register_forward_hook(lambda _, args, out: out[:, 0])


@torch.no_grad()
def write_case(
    folder: Path, config: dict[str, Any], seed: int, rows: int, steps: int, faint: bool = False
) -> None:
    lm = make_lm(folder, config, seed, faint)
    codes = random_codes(config, rows, steps, seed=1)
    inputs = condition_inputs(config, rows, seed=2)
    conditions = provide_conditions(lm, inputs, rows)
    outputs = forward(lm, codes, conditions)
    outputs |= {"codes": codes.to(torch.int16)} | condition_outputs(inputs, conditions)
    write_tensors(folder / "forward.safetensors", outputs)
    if inputs["texts"]:
        write_json(folder / "texts.json", inputs["texts"])
    logits = outputs["text_logits"][outputs["text_mask"]]
    print(f"{folder.name}: forward, standard deviation of text logits {float(logits.std()):.1f}")


def write_all(root: Path) -> None:
    for name, config in OTHERS.items():
        write_case(root / "lm" / name, config, seed=0, rows=2, steps=20)
    for name, config in FAINT.items():
        write_case(root / "lm" / name, config, seed=0, rows=1, steps=10, faint=True)


def write_generating(root: Path, seeds: dict[str, int]) -> None:
    """The kinds that also generate; their seeds are the ones whose greedy tokens have no near tie."""
    for name, config in GENERATING.items():
        write_case(
            root / "lm" / name, config, seed=seeds[name], rows=2, steps=24 if name == "personaplex" else 40
        )
