"""Greedy generation of Kyutai's package, desynchronised, with all that is needed to replay each step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from moshi.models import LMGen
from moshi.models import lm as lm_module
from moshi.models.lm import LMModel
from torch import Tensor

from recipes.common import random_masks, seeded, write_json, write_tensors
from recipes.lm import condition_inputs, condition_outputs, make_lm, provide_conditions
from recipes.lm_configs import GENERATING

_ROWS = 3
# Float32 rounding moves logits by about 1e-5: a choice this clear cannot depend on it.
_LEAST_GAP = 3e-4
_LEAST_VARIETY = 6  # different tokens, per stream
_FORCED_TEXT_SHARE = 0.2


@dataclass
class Inputs:
    """What is fed: [steps, B, ...]."""

    user: Tensor  # [steps, B, user codebooks]
    executed: Tensor  # [steps, B] bool
    resets: Tensor  # [steps, B] bool, done before the step
    forced_text: Tensor | None = None  # [steps, B], -2 where the model chooses


@dataclass
class Record:
    """What came out; one entry per step."""

    out: list[Tensor] = field(default_factory=list)  # [B, 1 + dep_q], -2 where a row has no output
    sampled: list[Tensor] = field(default_factory=list)  # [B, 1 + dep_q], after forcing
    gap: list[Tensor] = field(default_factory=list)  # [B, 1 + dep_q], best logit less the second best
    history: list[Tensor] = field(default_factory=list)  # [B or 2 B, 1 + n_q], what the model was fed
    text_logits: list[Tensor] = field(default_factory=list)  # [B, text_card]
    extra_heads: list[Tensor] = field(default_factory=list)  # [heads, B, dim]
    returned_none: list[bool] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        tensors = {
            "out": torch.stack(self.out).to(torch.int16),
            "sampled": torch.stack(self.sampled).to(torch.int16),
            "gap": torch.stack(self.gap),
            "history": torch.stack(self.history).to(torch.int16),
            "text_logits": torch.stack(self.text_logits),
        }
        if self.extra_heads:
            tensors["extra_heads"] = torch.stack(self.extra_heads)
        return tensors


@contextmanager
def recording(lm: LMModel, record: Record) -> Iterator[None]:
    """Notes, for each step, the tokens fed, and the logits and the choice of each stream."""
    choices: list[tuple[Tensor, Tensor]] = []
    choose, forward_text = lm_module.sample_token, lm.forward_text

    def watched_choice(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        token = choose(logits, *args, **kwargs)
        best = logits.flatten(1).topk(2).values
        choices.append((token.flatten(), best[:, 0] - best[:, 1]))
        if len(choices) == 1:
            record.text_logits.append(logits.flatten(1))
        if len(choices) == 1 + lm.dep_q:
            # The text token is a view that the forcing hook writes into, so it is read here, after the hook.
            record.sampled.append(torch.stack([token for token, _ in choices], dim=1))
            record.gap.append(torch.stack([gap for _, gap in choices], dim=1))
            choices.clear()
        return token

    def watched_forward(sequence: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        record.history.append(sequence[..., 0].clone())
        return forward_text(sequence, *args)

    lm_module.sample_token, lm.forward_text = watched_choice, watched_forward
    try:
        yield
    finally:
        lm_module.sample_token = choose
        del lm.forward_text


def run(lm: LMModel, inputs: Inputs, **options: Any) -> Record:
    """Steps through the inputs with `LMGen`, greedily."""
    record, step = Record(), 0

    def force_text(tokens: Tensor) -> None:
        assert inputs.forced_text is not None
        forced = inputs.forced_text[step]
        tokens.copy_(torch.where(forced < 0, tokens, forced))

    hooks = {"on_text_hook": force_text} if inputs.forced_text is not None else {}
    with recording(lm, record):
        generator = LMGen(lm, use_sampling=False, **hooks, **options)
        with generator.streaming(inputs.user.shape[1]):
            for step in range(len(inputs.user)):
                if inputs.resets[step].any():
                    generator.reset_streaming(inputs.resets[step])
                generator.set_exec_mask(inputs.executed[step])
                result = generator.step_with_extra_heads(inputs.user[step, :, :, None])
                record.returned_none.append(result is None)
                if result is not None:
                    record.out.append(result[0][..., 0].clone())
                    if lm.extra_heads:
                        record.extra_heads.append(torch.stack([head[:, 0] for head in result[1]]))
    return record


def make_inputs(lm: LMModel, rows: int, steps: int, seed: int, in_step: bool = False) -> Inputs:
    generator = seeded(seed)
    user = torch.randint(lm.card, (steps, rows, lm.n_q - lm.dep_q), generator=generator)
    executed, resets = random_masks(steps, rows, seed)
    if in_step:
        executed, resets = torch.ones_like(executed), torch.zeros_like(resets)
    inputs = Inputs(user, executed, resets)
    if lm.n_q == lm.dep_q:
        # No user stream: without some forced text every row would tell the same story.
        text = torch.randint(lm.text_card, (steps, rows), generator=generator)
        free = torch.rand(steps, rows, generator=generator) > _FORCED_TEXT_SHARE
        inputs.forced_text = torch.where(free, -2, text)
    return inputs


def input_tensors(inputs: Inputs) -> dict[str, Tensor]:
    tensors = {"user": inputs.user.to(torch.int16), "executed": inputs.executed, "resets": inputs.resets}
    if inputs.forced_text is not None:
        tensors["forced_text"] = inputs.forced_text.to(torch.int16)
    return tensors


def is_decisive(record: Record, inputs: Inputs) -> bool:
    """Whether no choice is a near tie, and no stream repeats itself."""
    ran = inputs.executed
    sampled = torch.stack(record.sampled)[ran]  # [rows that ran, 1 + dep_q]
    variety = min(len(stream.unique()) for stream in sampled.T)
    return bool(torch.stack(record.gap)[ran].min() > _LEAST_GAP) and variety >= _LEAST_VARIETY


@torch.no_grad()
def write_generation(root: Path, name: str, config: dict[str, Any], steps: int) -> int:
    """Looks for a seed whose tokens are decisive, writes that generation, and returns the seed."""
    for seed in range(200):
        with tempfile.TemporaryDirectory() as scratch:
            lm = make_lm(Path(scratch), config, seed)
        given = condition_inputs(config, _ROWS, seed=4)
        conditions = provide_conditions(lm, given, _ROWS)
        inputs = make_inputs(lm, _ROWS, steps, seed=3)
        record = run(lm, inputs, condition_tensors=conditions, support_out_of_sync=True, check=True)
        if is_decisive(record, inputs):
            break
    else:
        raise RuntimeError(f"{name}: no seed without a near tie")
    assert inputs.executed[:, 0].sum() > 3 * config["context"]
    in_step = make_inputs(lm, 1, 8, seed=5, in_step=True)
    one_row = {name: type(one)(one.condition[:1], one.mask[:1]) for name, one in (conditions or {}).items()}
    synchronous = run(lm, in_step, condition_tensors=one_row if lm.fuser else None)
    tensors = input_tensors(inputs) | record.tensors() | condition_outputs(given, conditions)
    tensors |= {f"in_step.{key}": value for key, value in input_tensors(in_step).items()}
    tensors["in_step.returned_none"] = torch.tensor(synchronous.returned_none)
    tensors["in_step.out"] = torch.stack(synchronous.out).to(torch.int16)
    write_tensors(root / "lm" / name / "generate.safetensors", tensors)
    least = float(torch.stack(record.gap)[inputs.executed].min())
    print(f"{name}: seed {seed}, {int(inputs.executed[:, 0].sum())} steps of row 0, least gap {least:.1e}")
    return seed


@torch.no_grad()
def write_guidance(root: Path, config: dict[str, Any], seed: int) -> None:
    """Classifier-free guidance in its three forms, on the model with conditions."""
    with tempfile.TemporaryDirectory() as scratch:
        lm = make_lm(Path(scratch), config, seed)
    rows, steps = 2, 30
    given = condition_inputs(config, 2 * rows, seed=6)
    conditions = provide_conditions(lm, given, 2 * rows)
    forms: dict[str, dict[str, Any]] = {
        "conditions": {"cfg_coef": 3.0},
        "masked_until": {"cfg_coef": 2.0, "cfg_is_masked_until": [5, 9]},
        "no_text": {"cfg_coef": 1.7, "cfg_is_no_text": True},
    }
    tensors = condition_outputs(given, conditions)
    for name, options in forms.items():
        for input_seed in range(200):
            inputs = make_inputs(lm, rows, steps, seed=100 + input_seed)
            record = run(lm, inputs, condition_tensors=conditions, support_out_of_sync=True, **options)
            if is_decisive(record, inputs):
                break
        else:
            raise RuntimeError(f"{name}: no inputs without a near tie")
        tensors |= {
            f"{name}.{key}": value for key, value in (input_tensors(inputs) | record.tensors()).items()
        }
        print(f"guidance, {name}: least gap {float(torch.stack(record.gap)[inputs.executed].min()):.1e}")
    folder = root / "lm" / "hibiki"
    write_tensors(folder / "guidance.safetensors", tensors)
    write_json(folder / "guidance.json", forms)


def write_all(root: Path) -> dict[str, int]:
    """Returns the seed of each model."""
    seeds = {
        name: write_generation(root, name, config, steps=60 if name == "personaplex" else 72)
        for name, config in GENERATING.items()
    }
    write_guidance(root, GENERATING["hibiki"], seeds["hibiki"])
    return seeds
