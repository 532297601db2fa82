"""Tensor names of Kyutai's checkpoints, old and new, and ours.

The language model's names are the same; old files hold some of its matrices stacked. Mimi's modules
are nested more deeply there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

# Stacked over the depth transformer's steps, or a stack of one elsewhere.
_STACKED = re.compile(
    r"^(.*\.(?:self_attn|cross_attention)\.)(in|out)_proj(?:\.|_)(lora_[AB]\.)?(weight(?:_scb)?)$"
)

# Weights that one step of the depth transformer has to itself.
_OF_DEPTH_STEP = re.compile(
    r"^(depformer_(?:in|emb|norms)|linears|depformer\.layers\.\d+\.(?:gating|self_attn\.(?:in|out)_projs))\.(\d+)\."
)

_OLD_CODEBOOK_NAMES = {
    "inited": "initialized",
    "_initialized": "initialized",
    "cluster_size": "cluster_usage",
    "embed_avg": "embedding_sum",
    "embed_sum": "embedding_sum",
}


def unstacked(name: str, tensor: Tensor, weight_sets: int = 1) -> Iterator[tuple[str, Tensor]]:
    """Returns the names and tensors of today for one of an old file.

    Args:
        weight_sets: how many sets of weights the layer that the tensor belongs to has.
    """
    stacked = _STACKED.match(name)
    if stacked is None:
        yield name, tensor
        return
    prefix, side, lora, suffix = stacked.groups()
    # Views of the mapped file: nothing is copied.
    for index, part in enumerate(tensor.chunk(weight_sets)):
        yield f"{prefix}{side}_projs.{index}.{lora or ''}{suffix}", part


def depth_step(name: str) -> int:
    """Returns the step of the depth transformer that alone needs a tensor of this name.

    0 if several do, or none.
    """
    found = _OF_DEPTH_STEP.match(name)
    if found is None:
        return 0
    part, index = found.groups()
    return int(index) + (part == "depformer_emb")  # a codebook is embedded for the step after its own


def mimi_from_kyutai(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Returns our name and tensor for one of Kyutai's."""
    name = name.replace(".conv.conv.conv.", ".").replace(".convtr.convtr.convtr.", ".")
    name = name.replace(".conv.conv.", ".").replace(".convtr.convtr.", ".")
    codebook = re.match(r"^(quantizer\.rvq_(?:first|rest)\.)vq\.layers\.(\d+)\._codebook\.(\w+)$", name)
    if codebook is not None:
        part, index, field = codebook.groups()
        return f"{part}codebooks.{index}.{_OLD_CODEBOOK_NAMES.get(field, field)}", tensor
    if re.match(r"^quantizer\..*_proj\.weight$", name) and tensor.dim() == 3:
        return name, tensor.squeeze(-1)  # a convolution of width 1
    return name, tensor


def mimi_to_kyutai(name: str, tensor: Tensor, transposed: bool) -> tuple[str, Tensor]:
    """Kyutai's name and tensor for one of ours.

    Args:
        transposed: whether the tensor belongs to a transposed convolution.
    """
    kind = "convtr" if transposed else "conv"
    resampler = re.match(r"^(downsample|upsample)\.(weight)$", name)
    if resampler is not None:
        return f"{resampler[1]}.{kind}.{kind}.{kind}.{resampler[2]}", tensor
    convolution = re.match(r"^((?:encoder|decoder)\.model\..*)\.(weight|bias)$", name)
    if convolution is not None:
        return f"{convolution[1]}.{kind}.{kind}.{convolution[2]}", tensor
    codebook = re.match(r"^(quantizer\.rvq_(?:first|rest)\.)codebooks\.(\d+)\.(\w+)$", name)
    if codebook is not None:
        part, index, field = codebook.groups()
        field = "_initialized" if field == "initialized" else field
        return f"{part}vq.layers.{index}._codebook.{field}", tensor
    if re.match(r"^quantizer\..*_proj\.weight$", name):
        return name, tensor.unsqueeze(-1)
    return name, tensor
