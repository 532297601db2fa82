"""Weights that become int8 while they are loaded, one layer after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.checkpoint.tensors import Stored
from moshi_agent.nn.linear import quantize_rows


class QuantisedLayers:
    """Turns the weights of some layers into int8 as they come, and keeps the scales until they are asked for.

    Args:
        layers: by name, which the file has as floats; each gets a place for its scale after its weight.
        stored: of the checkpoint.
    """

    def __init__(self, layers: list[str], stored: Stored) -> None:
        self._weights = {f"{name}.weight" for name in layers}
        self._scales: dict[str, Tensor] = {}
        tensors = dict(stored.tensors)
        stored.tensors.clear()
        for name, tensor in tensors.items():
            stored.tensors[name] = tensor
            if name in self._weights:
                stored.tensors[f"{name}_scb"] = torch.empty(len(tensor), device="meta")

    def __bool__(self) -> bool:
        """Tells whether there are any."""
        return bool(self._weights)

    def finish(self, name: str, tensor: Tensor) -> Tensor | None:
        """Returns the int8 weight of a layer, or its scale; None for a tensor that is not to be int8.

        Args:
            tensor: the weight, low-rank updates included, [out, in].
        """
        if name in self._weights:
            weight, scale = quantize_rows(tensor)
            self._scales[f"{name}_scb"] = scale
            return weight
        return self._scales.pop(name, None)
