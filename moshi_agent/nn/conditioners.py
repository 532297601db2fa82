"""Conditions: attributes of a whole conversation, as text or tensors, for the temporal transformer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from moshi_agent.config import ConditionerConfig, FuserConfig
from moshi_agent.errors import InputError
from moshi_agent.nn.linear import Linear
from moshi_agent.nn.positions import sine_embedding


class ConditionType(NamedTuple):
    """Holds what a conditioner gives."""

    condition: Tensor  # [B, T, dim]
    mask: Tensor  # [B, T] bool, True where it is real


@dataclass(frozen=True)
class TensorCondition:
    """Holds a condition given as a tensor."""

    tensor: Tensor  # [1, T, dim]
    mask: Tensor  # [1, T] bool

    @staticmethod
    def from_tensor(tensor: Tensor) -> TensorCondition:
        """Makes a condition of which all of `tensor`, [1, T, dim], is real."""
        return TensorCondition(tensor, torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device))


@dataclass(frozen=True)
class ConditionAttributes:
    """Holds the conditions of one conversation, by the names of the model's conditioners."""

    text: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    tensor: dict[str, TensorCondition] = field(default_factory=dict[str, TensorCondition])


ConditionTensors = dict[str, ConditionType]


class Conditioner(nn.Module):
    """Projects a condition to the model's width and fills in what is missing."""

    learnt_padding: nn.Parameter | None  # [1, 1, output_dim]

    def __init__(self, config: ConditionerConfig, output_dim: int) -> None:
        super().__init__()
        self.config = config
        projected = config.force_linear or config.dim != output_dim
        self.output_proj = Linear(config.dim, output_dim) if projected else nn.Identity()
        padding = nn.Parameter(0.2 * torch.randn(1, 1, output_dim)) if config.learn_padding else None
        self.register_parameter("learnt_padding", padding)

    def _finish(self, condition: Tensor, mask: Tensor) -> ConditionType:
        """condition: [B, T, config.dim], mask: [B, T]."""
        y = self.output_proj(condition)
        real = mask[..., None].to(y)
        y = y * real
        if self.learnt_padding is not None:
            y = y + self.learnt_padding * (1 - real)
        return ConditionType(y, mask)


class LutConditioner(Conditioner):
    """Looks up a text attribute among its possible values, or by its hash."""

    def __init__(self, config: ConditionerConfig, output_dim: int) -> None:
        super().__init__(config, output_dim)
        self.embed = nn.Embedding(config.n_bins + 1, config.dim)  # the last one is for "not given"
        with torch.no_grad():
            self.embed.weight *= config.init_scale

    def forward(self, values: Sequence[str | None]) -> ConditionType:
        """Embeds the attribute. Raises InputError for a value that is not among the possible ones."""
        device = self.embed.weight.device
        bins = torch.tensor([[self._bin(value)] for value in values], device=device)  # [B, 1]
        mask = torch.tensor([[value is not None] for value in values], device=device)
        return self._finish(self.embed(bins), mask)

    def _bin(self, value: str | None) -> int:
        possible = self.config.possible_values
        if value is None:
            return self.config.n_bins
        if possible is None:
            return int(hashlib.sha256(value.encode()).hexdigest(), 16) % self.config.n_bins
        if value not in possible:
            raise InputError(f"condition {self.config.name!r}: {value!r}; accepted: {', '.join(possible)}")
        return possible.index(value)


class TensorConditioner(Conditioner):
    """Takes a condition that is a sequence of vectors already."""

    def forward(self, values: Sequence[TensorCondition]) -> ConditionType:
        device = next(self.parameters()).device
        longest = max(value.tensor.shape[1] for value in values)
        tensor = torch.zeros(len(values), longest, self.config.dim, device=device)
        mask = torch.zeros(len(values), longest, dtype=torch.bool, device=device)
        for row, value in enumerate(values):
            steps = value.tensor.shape[1]
            tensor[row, :steps] = value.tensor[0].to(tensor)
            mask[row, :steps] = value.mask[0].to(device)
        return self._finish(tensor, mask)


class ReferenceConditioner(Conditioner):
    """Takes the rows that an encoder makes of a reference, which is given while a conversation goes on."""

    def forward(self, rows: Tensor) -> Tensor:
        """Projects rows of an encoder, [T, config.dim], to the model's width, [T, output_dim].

        Raises:
            InputError: rows of another shape.
        """
        if rows.dim() != 2 or rows.shape[1] != self.config.dim:
            raise InputError(f"rows of shape {list(rows.shape)}; accepted: [T, {self.config.dim}]")
        return self.output_proj(rows)


class ConditionProvider(nn.Module):
    """Holds all conditioners of a model, and applies them."""

    def __init__(self, configs: Sequence[ConditionerConfig], output_dim: int) -> None:
        super().__init__()
        kinds = {
            "lut": LutConditioner,
            "tensor": TensorConditioner,
            "multi_arc_encoder": ReferenceConditioner,
        }
        self.conditioners = nn.ModuleDict({one.name: kinds[one.kind](one, output_dim) for one in configs})

    @property
    def whole(self) -> dict[str, Conditioner]:
        """Returns the conditioners that tell of a whole conversation: all but those of references."""
        conditioners = cast("dict[str, Conditioner]", dict(self.conditioners.items()))
        return {name: one for name, one in conditioners.items() if not isinstance(one, ReferenceConditioner)}

    def prepare_and_provide(self, attributes: Sequence[ConditionAttributes]) -> ConditionTensors:
        """Computes the conditions of each conversation, by name.

        Raises:
            InputError: a condition that the model has is missing.
        """
        provided: ConditionTensors = {}
        for name, conditioner in self.whole.items():
            kind = "text" if isinstance(conditioner, LutConditioner) else "tensor"
            missing = [row for row, one in enumerate(attributes) if name not in getattr(one, kind)]
            if missing:
                raise InputError(f"{kind} condition {name!r} is missing in rows {missing}")
            provided[name] = conditioner([getattr(one, kind)[name] for one in attributes])
        return provided


class ConditionFuser:
    """Says which conditions are added to the input, which are attended to, and which are read before it."""

    def __init__(self, config: FuserConfig) -> None:
        self.config = config

    @property
    def conditions(self) -> tuple[str, ...]:
        """Lists those of a whole conversation; rows of references come while it goes on."""
        return (*self.config.sum, *self.config.cross, *self.config.prepend)

    def get_sum(self, conditions: ConditionTensors) -> Tensor | None:
        """Returns [B, 1, dim], which is added to every input."""
        parts = [conditions[name].condition for name in self.config.sum]
        return torch.stack(parts).sum(0) if parts else None

    def get_prepend(self, conditions: ConditionTensors) -> Tensor | None:
        """Returns [B, T, dim], read before the first step: as in Kyutai's code, the last named first."""
        parts = [conditions[name] for name in reversed(self.config.prepend)]
        # A condition that is not given takes its place as zeros.
        given = [part.condition * part.mask[..., None] for part in parts]
        total = self.get_sum(conditions)
        return torch.cat(given, dim=1) + (0 if total is None else total) if given else None

    def get_cross(self, conditions: ConditionTensors) -> Tensor | None:
        """Returns [B, T, dim], which the cross attention sees."""
        parts = [conditions[name].condition for name in self.config.cross]
        if not parts:
            return None
        cross = torch.cat(parts, dim=1)
        if self.config.cross_attention_pos_emb:
            positions = torch.arange(cross.shape[1], device=cross.device)[None]
            embedding = sine_embedding(positions, cross.shape[2], 10_000.0, torch.float32).to(cross)
            cross = cross + self.config.cross_attention_pos_emb_scale * embedding
        return cross
