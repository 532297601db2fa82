"""Weights that are rounded while they are loaded, one layer after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from moshi_agent.nn.linear import Int4Linear, Int8Linear, Linear

Rounding = Literal["int8", "int4"]
ROUNDINGS: tuple[Rounding, ...] = ("int8", "int4")


class QuantisedLayers:
    """Puts layers of fewer bits into a model as their float weights come.

    Args:
        model: with plain layers in their places; on the meta device where there is no room for them.
        kinds: of the layers, by name.
    """

    def __init__(self, model: nn.Module, kinds: Mapping[str, type[Int8Linear | Int4Linear]]) -> None:
        self._model = model
        self._kinds = kinds

    def __bool__(self) -> bool:
        """Tells whether there are any."""
        return bool(self._kinds)

    def held(self) -> Iterator[tuple[str, Tensor]]:
        """Lists what the model will hold, by name: tensors without memory."""
        for name, tensor in self._model.state_dict().items():
            kind = self._kinds.get(name.removesuffix(".weight"))
            if kind is None:
                yield name, tensor
                continue
            with torch.device("meta"):
                layer = kind(tensor.shape[1], tensor.shape[0])
            yield from ((name.removesuffix("weight") + field, one) for field, one in layer.named_parameters())

    def num_bytes(self) -> int:
        """Counts what the model will hold, in the types it has now where nothing is rounded."""
        return sum(tensor.nbytes for _, tensor in self.held())

    def finish(self, name: str, tensor: Tensor) -> Tensor | None:
        """Puts a layer in its place and returns its weight; None for a tensor that is not to be rounded.

        Args:
            tensor: the weight, low-rank updates included, [out, in].
        """
        layer_name = name.removesuffix(".weight")
        kind = self._kinds.get(layer_name)
        if kind is None or layer_name == name:
            return None
        layer = kind.rounded(tensor)
        replace_layer(self._model, layer_name, layer)
        return layer.weight


def replace_layer(model: nn.Module, name: str, layer: Linear) -> None:
    """Puts a layer in the place of that name."""
    owner_name, _, field = name.rpartition(".")
    setattr(model.get_submodule(owner_name), field, layer)
