"""Lets several processes, each with a device of its own, train one model: started by `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


@contextmanager
def process_group(device: str) -> Generator[torch.device]:
    """Joins the processes that `torchrun` started, if it did; gives this one's device.

    `cuda` is then the device of the local rank.
    """
    if "WORLD_SIZE" not in os.environ:
        yield torch.device(device)
        return
    own = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield own
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Tells which of the processes this is, from 0."""
    return distributed.get_rank() if _together() else 0


def process_count() -> int:
    """Tells how many processes train together."""
    return distributed.get_world_size() if _together() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sums what each process has, in place."""
    if _together():
        distributed.all_reduce(tensor)
    return tensor


def average_over_processes(tensor: Tensor) -> Tensor:
    """Averages what each process has, in place."""
    return sum_over_processes(tensor).div_(process_count()) if _together() else tensor


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Makes every gradient the mean over the processes. All must have gradients for the same parameters."""
    if not _together():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = average_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Gives every process the first one's values, in place."""
    if _together():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def wait_for_all() -> None:
    """Waits until every process has come here."""
    if _together():
        distributed.barrier()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
