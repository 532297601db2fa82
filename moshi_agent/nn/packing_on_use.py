"""Packed copies of plain weights, for models that are used on a CPU without having been packed.

The plain weight stays what it is: to be trained, moved, saved and loaded. The copy serves where no gradient
is asked for, and is made anew when the weight has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moshi_agent.nn.packing import Product, pack_product


@dataclass(frozen=True)
class _PackedCopy:
    product: Product
    made_of: tuple[object, ...]


class PacksOnUse(nn.Module):
    """Packs the one matrix product that a layer is when it is first used; see `pack_on_use`."""

    packs_on_use: bool = False
    _packed_copy: _PackedCopy | None = None

    def as_product(self) -> tuple[Tensor, Tensor | None]:
        """Gives the layer as one matrix product: weight [out, in] and bias [out]."""
        raise NotImplementedError

    def copied_product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Product | None:
        """Gives the product on a packed copy; None where it cannot serve: gradients, other types or devices.

        Args:
            x: the input.
            weight, bias: what `as_product` is made of; when they change, it is asked again.
        """
        if not self.packs_on_use or torch.is_grad_enabled() or not _is_plain_float32(x, weight):
            return None
        made_of = (*_identity(weight), *_identity(bias))
        if self._packed_copy is None or self._packed_copy.made_of != made_of:
            self._packed_copy = _PackedCopy(pack_product(*self.as_product(), "float32"), made_of)
        return self._packed_copy.product

    def drop_packed_copy(self) -> None:
        """Lets go of the copy; the next use makes another."""
        self._packed_copy = None

    def train(self, mode: bool = True) -> PacksOnUse:
        """Ends it for training: a weight that is no longer mapped from a file would be in memory twice."""
        if mode:
            self.packs_on_use = False
            self.drop_packed_copy()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):  # type: ignore[no-untyped-def]  # pyright: ignore
        self.drop_packed_copy()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop_packed_copy()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed_copy": None}  # neither copied nor pickled


def pack_on_use(model: nn.Module) -> None:
    """Lets the model's layers pack copies of their float32 weights for the CPU when they are first used.

    For weights that are mapped from a file. They then take no memory of their own: the system lets go of
    their pages when it needs room, and reads them again when somebody wants them.
    """
    for module in model.modules():
        if isinstance(module, PacksOnUse):
            module.packs_on_use = True


def _is_plain_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether the packed product gives what the plain one would."""
    same = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return same and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


def _identity(tensor: Tensor | None) -> tuple[object, ...]:
    """Tells a tensor from itself after a change in place, or after its data has been replaced."""
    if tensor is None:
        return ()
    # A tensor made in inference mode keeps no count of its changes, and nobody can train it.
    return (tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)
