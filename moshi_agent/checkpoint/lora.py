"""Low-rank updates of a language model (LoRA, Hu et al. 2021, arXiv:2106.09685): W + scaling * B @ A."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moshi_agent.checkpoint.kyutai.weights import read_kyutai_lm
from moshi_agent.checkpoint.tensors import Stored
from moshi_agent.config import MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError

LORA_SIDES = ("lora_A", "lora_B")


@dataclass(frozen=True)
class LoraUpdates:
    """What a file of low-rank updates holds."""

    scaling: float
    pairs: dict[str, tuple[Tensor, Tensor]]  # layer -> A [rank, in], B [out, rank]
    whole: dict[str, Tensor]  # tensors trained as a whole, embeddings as a rule, that replace the model's

    def fused(self, name: str, weight: Tensor) -> Tensor:
        """Returns the weight with its update, in float32, or as it is where it has none. [out, in]."""
        pair = self.pairs.get(name.removesuffix(".weight"))
        if pair is None:
            return weight
        a, b = (one.to(weight.device).float() for one in pair)
        return weight.float().addmm(b, a, alpha=self.scaling)

    def split(self, kept: Callable[[str], bool]) -> tuple[LoraUpdates, LoraUpdates]:
        """Returns the updates of layers that are not to be kept apart, and of those that are."""
        sides: tuple[dict[str, tuple[Tensor, Tensor]], dict[str, tuple[Tensor, Tensor]]] = ({}, {})
        for layer, pair in self.pairs.items():
            sides[kept(layer)][layer] = pair
        return LoraUpdates(self.scaling, sides[0], {}), LoraUpdates(self.scaling, sides[1], {})

    def tensors(self) -> dict[str, Tensor]:
        """Returns the updates by the names that they have in a model."""
        return {
            f"{layer}.{side}.weight": tensor
            for layer, pair in self.pairs.items()
            for side, tensor in zip(LORA_SIDES, pair, strict=True)
        }


def read_lora(config: MoshiConfig, path: Path, base: Stored, device: str = "cpu") -> LoraUpdates:
    """Reads the updates in a file, checked against the tensors that they are for.

    Raises:
        CheckpointError: a damaged file, or updates that do not fit the tensors.
        ConfigError: the configuration has no low-rank updates, or the weights are int8.
    """
    if config.lora is None:
        raise ConfigError(f"{path}: low-rank updates for a configuration without them (lora)")
    if any(name.endswith(".weight_scb") for name in base.tensors):
        raise ConfigError(f"{path}: low-rank updates cannot be added to the int8 weights of {base.source}")
    updates = read_kyutai_lm(config, path, device).tensors
    whole = {name: tensor for name, tensor in updates.items() if _side(name) is None}
    layers = sorted({name.rpartition(".lora_")[0] for name in updates if _side(name)})
    pairs = {layer: _pair(layer, updates, path) for layer in layers}
    for layer, (a, b) in pairs.items():
        _check_pair(layer, a, b, base, config.lora.rank, path)
    for name, tensor in whole.items():
        wanted = base.tensors.get(name)
        if wanted is None:
            raise CheckpointError(f"{path}: unexpected {name}; {base.source} has no such tensor")
        if wanted.shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensor.shape)}; in {base.source} it is {list(wanted.shape)}"
            )
    if not updates:
        raise CheckpointError(f"{path}: no tensors in it")
    for name, tensor in updates.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} is stored as {tensor.dtype}; accepted: floats")
    return LoraUpdates(config.lora.scaling, pairs, whole)


def _side(name: str) -> str | None:
    return next((side for side in LORA_SIDES if name.endswith(f".{side}.weight")), None)


def _pair(layer: str, updates: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    names = [f"{layer}.{side}.weight" for side in LORA_SIDES]
    missing = [name for name in names if name not in updates]
    if missing:
        raise CheckpointError(f"{path}: missing {missing[0]}, the other half of the update of {layer}")
    return updates[names[0]], updates[names[1]]


def _check_pair(layer: str, a: Tensor, b: Tensor, base: Stored, rank: int, path: Path) -> None:
    weight = base.tensors.get(f"{layer}.weight")
    if weight is None or weight.dim() != 2:
        raise CheckpointError(f"{path}: unexpected {layer}.lora_A.weight; {base.source} has no layer {layer}")
    wanted = {"lora_A": [rank, weight.shape[1]], "lora_B": [weight.shape[0], rank]}
    for side, tensor in zip(LORA_SIDES, (a, b), strict=True):
        if list(tensor.shape) != wanted[side]:
            raise CheckpointError(
                f"{path}: {layer}.{side}.weight has shape {list(tensor.shape)}; "
                f"the layer and lora_rank={rank} ask for {wanted[side]}"
            )
