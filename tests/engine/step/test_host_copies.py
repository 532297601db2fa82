"""Rows on their way to the host, piece by piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moshi_agent.engine.step.host_copies import HostCopies, copied

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _tensors(device: str = "cpu") -> list[Tensor]:
    """Of every type that a row has: a number alone, a part of a ring, nothing filled yet."""
    ring = torch.randn(3, 2, 50, 8, device=device)
    return [
        torch.tensor(-(2**40), device=device),
        ring[1, :, :7],
        ring[1, :, :0],
        ring.to(torch.bfloat16)[0],
        (10 * ring).to(torch.int8)[2],
        ring.half(),
        ring > 0,
    ]


@pytest.mark.parametrize("staging_bytes", [8, 96, 1 << 20])
def test_pieces_make_the_whole(staging_bytes: int) -> None:
    waits: list[int] = []
    staging = torch.empty(staging_bytes, dtype=torch.uint8)
    for source in _tensors():
        waits.clear()
        target = copied(source, staging, lambda: waits.append(1))
        assert target.dtype == source.dtype and torch.equal(target, source)
        assert target.data_ptr() != source.data_ptr() or not source.numel()
        assert len(waits) == -(-source.nbytes // staging_bytes)


def test_what_is_on_the_host_stays_what_it_is() -> None:
    given = _tensors()
    assert all(
        one is other for one, other in zip(HostCopies(torch.device("cpu")).take(given), given, strict=True)
    )


@pytest.mark.gpu
@needs_gpu
def test_rows_of_a_device_arrive_beside_its_steps() -> None:
    given = _tensors("cuda")
    copies = HostCopies(torch.device("cuda"), staging_bytes=128)
    copies.prepare()
    for one, other in zip(copies.take(given), given, strict=True):
        assert not one.is_cuda and torch.equal(one, other.cpu())
