"""Keeps trained weights as they are shipped: a codec in what bfloat16 holds, each centroid as itself."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from moshi_agent.config import MimiConfig
from moshi_agent.errors import ConfigError
from moshi_agent.models.mimi import MimiModel
from moshi_agent.outputs import whole_file
from moshi_agent.training.mimi.codebooks import settle
from moshi_agent.training.mimi.codec import refresh_codebooks


def frozen(codec: MimiModel) -> MimiModel:
    """Makes a settled, rounded copy: it encodes to the codes that the exported codec gives."""
    codec = copy.deepcopy(codec)
    refresh_codebooks(codec)
    settle(codec.quantizer)
    round_weights(codec)
    refresh_codebooks(codec)
    return codec.eval()


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """Rounds all weights to what bfloat16 holds; they stay float32."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(torch.bfloat16))


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the weights by our names."""
    with whole_file(path) as part:
        torch.save(model.state_dict(), part)


def load_weights(model: nn.Module, path: Path) -> None:
    """Reads what `save_weights` wrote. Raises ConfigError when there is nothing."""
    if not path.is_file():
        raise ConfigError(f"there is no {path} yet; the stages before this one make it")
    model.load_state_dict(torch.load(path, weights_only=True))


@torch.no_grad()
def keep(model: nn.Module, path: Path, share: float) -> None:
    """Makes the weights a mean of themselves and of what `save_weights` wrote, which has this share."""
    kept = torch.load(path, weights_only=True)
    for name, weight in model.state_dict().items():
        weight.lerp_(kept[name].to(weight), share)


def load_codec(path: Path, config: MimiConfig) -> MimiModel:
    """Loads a codec that `save_weights` wrote. Raises ConfigError when there is none."""
    codec = MimiModel(config)
    load_weights(codec, path)
    refresh_codebooks(codec)
    return codec.eval()
