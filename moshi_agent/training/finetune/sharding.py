"""Shares one model among several processes, each with a part of its weights: FSDP2 of torch, with torchrun.

It is part of torch, takes weights that are trained and weights that are not in one layer, as low-rank updates
have them, and gives whole tensors back by their own names.
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from moshi_agent.nn.transformer import TransformerLayer
from moshi_agent.training.runs.distributed import process_count, wait_for_all


def shard(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a model to the device: all of it, or with several processes this one's part of each layer."""
    if process_count() == 1:
        model.to(device)
        return
    mesh = init_device_mesh(device.type, (process_count(),))
    lower = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32)
    for layer in (module for module in model.modules() if isinstance(module, TransformerLayer)):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


@contextmanager
def whole_weights(model: nn.Module) -> Generator[None]:
    """Gives every process all weights within the block, in which it may use the model in any way.

    All processes enter and leave together.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    for layer in parts[1:]:  # the first is the whole, which does not run as such here
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        wait_for_all()
        for part in parts:
            part.reshard()
        for layer in parts[1:]:
            layer.set_reshard_after_forward(True, recurse=False)


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns whole tensors of what is trained, on the CPU of the first process. All of them call it."""
    return _whole(get_model_state_dict(model, options=_options(ignore_frozen_params=True)))


def all_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns whole tensors of everything in the model, otherwise as `trained_weights`."""
    return _whole(get_model_state_dict(model, options=_options()))


def set_trained_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Takes what `trained_weights` returned; the other processes' argument does not count."""
    set_model_state_dict(
        model, weights, options=_options(strict=False, broadcast_from_rank0=process_count() > 1)
    )


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the optimizer's state by names of weights, whole, on the CPU of the first process."""
    return get_optimizer_state_dict(model, optimizer, options=_options())


def set_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes what `optimizer_state` returned; the other processes' argument does not count."""
    options = _options(broadcast_from_rank0=process_count() > 1)
    set_optimizer_state_dict(model, optimizer, state, options=options)


def _options(
    *, ignore_frozen_params: bool = False, strict: bool = True, broadcast_from_rank0: bool = False
) -> StateDictOptions:
    return StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=ignore_frozen_params,
        strict=strict,
        broadcast_from_rank0=broadcast_from_rank0,
    )


def _whole(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
