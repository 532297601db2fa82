"""What the parity tests share: the golden files, and how close is close."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

_ROOT = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Golden:
    """One folder of golden files."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def json(self, name: str = "config") -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text())

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file; integers, which are stored small, as int64, and 16-bit sound as floats."""
        loaded = load_file(self.folder / f"{name}.safetensors")
        return {key: _widened(key, tensor) for key, tensor in loaded.items()}


def _widened(key: str, tensor: Tensor) -> Tensor:
    if key.endswith("speech"):
        return tensor.float() / 32768
    return tensor.long() if tensor.dtype in (torch.uint8, torch.int16) else tensor


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Opens a folder of golden files by name."""
    return lambda name: Golden(_ROOT / name)


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """Asserts that ours is within 1e-4 of the peer's; `relative` takes that of the peer's largest value."""

    def check(ours: Tensor, peer: Tensor, relative: bool = False) -> None:
        assert ours.shape == peer.shape, f"shape {list(ours.shape)}; the peer's is {list(peer.shape)}"
        misplaced = int((ours.isnan() != peer.isnan()).sum())
        assert not misplaced, f"{misplaced} values of {ours.numel()} are NaN in only one of the two"
        error = (ours - peer).nan_to_num().abs().max().item()
        largest = peer.nan_to_num().abs().max().item()
        assert error <= 1e-4 * (largest if relative else 1.0), (
            f"off by {error:.2e}, values reach {largest:.3g}"
        )

    return check


@pytest.fixture
def assert_same_codes() -> Callable[[Tensor, Tensor], None]:
    """Asserts that at least 99.5 % of the codes are the peer's."""

    def check(ours: Tensor, peer: Tensor) -> None:
        assert ours.shape == peer.shape, f"shape {list(ours.shape)}; the peer's is {list(peer.shape)}"
        same = (ours == peer).float().mean().item()
        assert same >= 0.995, f"only {same:.2%} of the codes are the peer's"

    return check
