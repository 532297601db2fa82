"""Which kernels of our own serve in this process: all, but for those that have been switched off."""

from __future__ import annotations

from functools import cache
from typing import Literal

FastPathName = Literal["attention", "fused", "int8 product", "int4 product", "native step"]


@cache
def _switched_off() -> set[FastPathName]:
    return set()


def is_on(name: FastPathName) -> bool:
    """Tells whether the kernels of that name serve."""
    return name not in _switched_off()


def switch_off(name: FastPathName) -> None:
    """Has PyTorch's operators serve in place of the kernels of that name, in whatever is made from now on."""
    _switched_off().add(name)


def switch_all_on() -> None:
    """Takes back what has been switched off."""
    _switched_off().clear()
