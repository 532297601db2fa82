"""What a machine is good for: found out by trying, and told to people or as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch

from moshi_agent import load_checkpoint
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.models import rounded_layers
from moshi_agent.checkpoint.quantised import Rounding
from moshi_agent.cli.machine import machine_name, versions
from moshi_agent.cli.model import check_device
from moshi_agent.engine.capacity import STEP_BUDGET_MS, StepTimes
from moshi_agent.engine.step.frame_step import FrameStep
from moshi_agent.engine.step.memory import RowPlan, free_bytes, plan_rows
from moshi_agent.engine.step.step_check import compare_codecs, compare_graphs
from moshi_agent.errors import MoshiAgentError
from moshi_agent.models.lm import LMModel
from moshi_agent.nn import cache_attention, fused
from moshi_agent.nn.fast_paths import Comparison, compare, fast_paths
from moshi_agent.nn.linear import Int8Linear
from moshi_agent.plural import counted

_REPEATS = 20  # of each kernel
_STEPS = 8  # of each number of conversations


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """What `moshi-agent doctor` was asked to do."""

    model: str
    lora: str | None
    device: str
    most: int
    as_json: bool


def examine(asked: Doctor) -> None:
    """Prints what was found, as it is found, or all of it as one JSON object.

    Raises:
        InputError: there is no such device.
        CheckpointError: the model is missing or damaged.
    """
    device = asked.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    say: Callable[[str], object] = (lambda text: None) if asked.as_json else click.echo
    found: dict[str, Any] = {"machine": machine(device)}
    for name, value in found["machine"].items():
        say(f"{name:>12}  {value if value is not None else 'none'}")
    found["fits"] = _fits(asked, device)
    say(f"\n{asked.model}, conversations that fit on {device}, by its weights and its caches:")
    for weights, fit in found["fits"].items():
        say(f"{weights:>12}  {_fit_told(fit)}")
    found |= _tried(asked, device, say)
    found["verdict"] = verdict(found, device)
    say(f"\n{found['verdict']}")
    if asked.as_json:
        click.echo(json.dumps(found, indent=1))


def machine(device: str) -> dict[str, Any]:
    """Describes the machine: its processors, their memory, and the software that computes on them."""
    facts: dict[str, Any] = {"machine": machine_name(device), **versions()}
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    facts["triton"] = _version("triton")
    facts["compiler"] = fused.missing_for_triton() or "as Triton needs it"
    facts["cuda"] = torch.version.cuda
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        facts[f"cuda:{number}"] = (
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        )
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(asked: Doctor, device: str) -> dict[str, dict[str, Any]]:
    """By the type of the weights: what they take, and how many conversations fit beside them."""
    on_cuda = device.startswith("cuda")
    own = torch.bfloat16 if on_cuda else torch.float32  # which rounded weights compute in
    checkpoint = load_checkpoint(asked.model, device="meta", dtype=own, lora=asked.lora)
    lm = checkpoint.lm
    if lm is None:
        return {}
    types: dict[str, tuple[torch.dtype, Rounding | None]] = {"float32": (torch.float32, None)}
    if on_cuda:
        types["bfloat16"] = (torch.bfloat16, None)
    types["int8"] = (own, "int8")
    if on_cuda and not any(isinstance(module, Int8Linear) for module in lm.modules()):
        types["int4"] = (own, "int4")
    free = free_bytes(torch.device(device))
    has_kernel = not on_cuda or cache_attention.serves(lm.config.temporal, torch.device(device))
    codec = sum(one.nbytes for one in checkpoint.mimi.parameters())
    fits: dict[str, dict[str, Any]] = {}
    for name, (dtype, rounding) in types.items():
        weights = rounded_layers(lm.to(dtype), rounding).num_bytes() + codec
        fits[name] = _fit(lm, weights, free, has_kernel)
    return fits


def _fit(lm: LMModel, weights: int, free: int, has_kernel: bool) -> dict[str, Any]:
    plan: RowPlan = plan_rows(lm, 1, free - weights, has_kernel)
    return {
        "weights_bytes": weights,
        "float_rows": plan.most_rows(int8=False),
        "int8_rows": plan.most_rows(int8=True),
    }


def _fit_told(fit: dict[str, Any]) -> str:
    rows = f"{fit['float_rows']} with float caches, {fit['int8_rows']} with int8"
    return f"{fit['weights_bytes'] / 1e9:6.2f} GB of weights, then {rows if fit['int8_rows'] else 'none fit'}"


def _tried(asked: Doctor, device: str, say: Callable[[str], object]) -> dict[str, Any]:
    """The comparisons and the times, as far as the model can be loaded."""
    try:
        torch.set_num_threads(1)
        checkpoint = load_checkpoint(asked.model, device=device, pack="auto", lora=asked.lora)
        lm = checkpoint.conversation_lm()
    except MoshiAgentError as error:
        say(f"\nnot tried: {error}")
        return {"not_tried": str(error)}
    say("\nfast paths beside the plain ones, the largest difference and the times:")
    compared: list[dict[str, Any]] = []
    for result in _comparisons(asked, checkpoint, lm):
        compared.append(asdict(result))
        say(_told(result))
    say("\nthe step, all caches full, in ms:")
    steps: dict[int, float] = {}
    error = None
    for count in _counts(asked.most):
        try:
            step = FrameStep(checkpoint, count)
            steps[count] = statistics.median(step.measure([count], _STEPS)[count])
            step.close()
        except MoshiAgentError as refusal:
            error = str(refusal)
            say(f"{count:>6}  {error}")
            break
        say(f"{count:>6}  {steps[count]:.1f}")
        if steps[count] > 2 * STEP_BUDGET_MS:
            break
    return {"fast_paths": compared, "step_ms": steps, "no_more": error}


def _comparisons(asked: Doctor, checkpoint: Checkpoint, lm: LMModel) -> Iterator[Comparison]:
    device = lm.device
    plain = load_checkpoint(asked.model, device=str(device)).mimi
    yield compare_codecs(checkpoint.mimi, plain, _REPEATS)
    if device.type != "cuda":
        return
    if fused.has_triton():
        yield from (compare(path, _REPEATS) for path in fast_paths(lm.config.temporal, device, lm.dtype))
    step = FrameStep(checkpoint, 1)
    yield compare_graphs(step, _REPEATS)
    step.close()


def _counts(most: int) -> list[int]:
    return [count for count in (1, 4, 16, 32, 64, 128, 256, 512) if count <= most]


def _told(result: Comparison) -> str:
    speed = ""
    if result.fast_ms is not None and result.plain_ms is not None:
        speed = f", {result.fast_ms:.3f} ms instead of {result.plain_ms:.3f}"
    sign = "ok" if result.agrees else "NO"
    return f"{sign:>6}  {result.what}: {result.told}{speed}"


def verdict(found: dict[str, Any], device: str) -> str:
    """Says in one line what a person can do."""
    if "not_tried" in found:
        return f"This model does not run here as it is: {found['not_tried']}"
    wrong = [one["what"] for one in found["fast_paths"] if not one["agrees"]]
    if wrong:
        return f"Report this with --json: here {', '.join(wrong)} give other numbers; an engine goes without."
    times = StepTimes()
    for rows, step_ms in found["step_ms"].items():
        times.note(rows, step_ms)
    most = min(times.most_rows(), max(fit["int8_rows"] for fit in found["fits"].values()))
    if not most:
        step_ms = next(iter(found["step_ms"].values()))
        slow = f"one step takes {step_ms:.0f} of {STEP_BUDGET_MS:.0f} ms"
        return (
            f"This machine is too slow for the model in real time: {slow}. Accepted: a GPU, a smaller model."
        )
    lacking = fused.missing_for_triton() if device.startswith("cuda") else None
    more = f" It would be faster: {lacking}." if lacking else ""
    return f"Ready for about {counted(most, 'caller')} at once: moshi-agent serve --capacity {most}.{more}"
