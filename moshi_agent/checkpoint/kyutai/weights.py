"""Reads weight files in Kyutai's format into tensors by our names."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from moshi_agent.checkpoint.kyutai.names import depth_step, mimi_from_kyutai, mimi_to_kyutai, unstacked
from moshi_agent.checkpoint.tensors import Stored, read_stored
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.models.lm import REFERENCES_TABLE
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.conv import CausalConvTranspose1d

_OF_ENCODER = re.compile(r"condition_provider\.conditioners\.[^.]+\.(embedder|bridge_module)\.")


def read_kyutai_mimi(config: MimiConfig, path: Path, device: str = "cpu") -> Stored:
    """Reads the codec's tensors, mapped. Raises CheckpointError for a damaged file."""
    stored = read_stored(path, device)
    today = [pair for name, tensor in stored.tensors.items() for pair in unstacked(name, tensor)]
    tensors = dict(mimi_from_kyutai(name, tensor) for name, tensor in today)
    for part, count in (("first", config.quantizer.n_q_semantic), ("rest", config.quantizer.n_q)):
        for index in range(count):
            # Files written before the flag existed hold trained codebooks.
            name = f"quantizer.rvq_{part}.codebooks.{index}."
            if name + "embedding_sum" in tensors:
                tensors.setdefault(name + "initialized", torch.ones(1, device=device))
    with torch.device("meta"):
        written = kyutai_mimi_names(MimiModel(config))
    return Stored(path, tensors, stored.files, written)


def kyutai_mimi_names(model: MimiModel) -> dict[str, str]:
    """Kyutai's name for each of our tensors."""
    names: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        owner = model.get_submodule(name.rpartition(".")[0])
        names[name] = mimi_to_kyutai(name, tensor, isinstance(owner, CausalConvTranspose1d))[0]
    return names


def read_kyutai_lm(config: MoshiConfig, path: Path, device: str = "cpu") -> Stored:
    """Reads the language model's tensors, or low-rank updates of them, mapped.

    A file may have depth steps for the user's codebooks too, as PersonaPlex's has. No earlier step depends
    on them: where the configuration does without, they are left in the file. So are a table for references,
    which is read by itself, and an encoder of references, which is a model of its own.

    Raises:
        CheckpointError: a damaged file.
    """
    stored = read_stored(path, device)
    predicts_user = _predicts_user(config, stored)
    depth_sets = config.depth.transformer.num_weight_sets if config.depth else 1
    in_file = config.n_q if predicts_user else depth_sets
    tensors: dict[str, torch.Tensor] = {}
    written: dict[str, str] = {}
    for name, tensor in stored.tensors.items():
        if name == REFERENCES_TABLE or _OF_ENCODER.match(name):
            continue
        for ours, part in unstacked(name, tensor, in_file if name.startswith("depformer.") else 1):
            if not predicts_user or depth_step(ours) < config.dep_q:
                tensors[ours], written[ours] = part, name
    return Stored(path, tensors, stored.files, written)


def _predicts_user(config: MoshiConfig, stored: Stored) -> bool:
    """Whether the file has a depth step for every codebook, the model only for those that it speaks."""
    if config.depth is None or config.depth.transformer.weights_per_step_schedule is not None:
        return False
    last = f"linears.{config.n_q - 1}."
    return config.dep_q < config.n_q and any(name.startswith(last) for name in stored.tensors)
