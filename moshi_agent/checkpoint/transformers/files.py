"""A checkpoint in the format of Hugging Face Transformers: its files, and the models they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from moshi_agent.checkpoint.models import fill_lm, fill_mimi
from moshi_agent.checkpoint.sources import Source, get
from moshi_agent.checkpoint.tensors import Stored, check_tensors, read_stored, read_weight_map
from moshi_agent.checkpoint.transformers.config import read_mimi_config, read_moshi_config
from moshi_agent.checkpoint.transformers.names import (
    Pairing,
    mimi_pairings,
    moshi_pairings,
    to_ours,
    to_theirs,
)
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

CODEC_PREFIX = "audio_encoder."


@dataclass(frozen=True)
class TransformersFiles:
    """The files on this machine, and the configurations read from `config.json`."""

    weights: Path  # one file, or the index of several
    paths: list[Path]  # files with weights, and the tokenizer
    tokenizer: Path | None
    mimi_config: MimiConfig
    lm_config: MoshiConfig | None  # None for the codec alone
    raw_config: dict[str, Any]


def locate_transformers(source: Source, config_path: Path, config: dict[str, Any]) -> TransformersFiles:
    """Finds, and fetches where it has to, the files of a checkpoint.

    Raises:
        CheckpointError: a model of another kind, or a file that is missing or cannot be fetched.
        ConfigError: a configuration that is not supported.
    """
    kind = config.get("model_type")
    if kind not in ("mimi", "moshi"):
        raise CheckpointError(
            f"{config_path}: a Transformers checkpoint of model_type {kind!r}; accepted: mimi, moshi"
        )
    try:
        lm_config = read_moshi_config(config) if kind == "moshi" else None
        codec = config if lm_config is None else config.get("audio_encoder_config") or {}
        mimi_config = read_mimi_config(cast("Mapping[str, Any]", codec))
    except ConfigError as error:
        raise ConfigError(f"{config_path}: {error}") from error
    weights = source.find(WEIGHTS_NAME) or source.find(INDEX_NAME)
    if weights is None:
        raise CheckpointError(f"{source.name}: there is neither {WEIGHTS_NAME} nor {INDEX_NAME} in it")
    paths = [weights]
    if weights.name == INDEX_NAME:
        paths = [get(source, shard) for shard in sorted(set(read_weight_map(weights).values()))]
    tokenizer = source.find_tokenizer() if lm_config is not None else None
    paths += [] if tokenizer is None else [tokenizer]
    return TransformersFiles(weights, paths, tokenizer, mimi_config, lm_config, config)


def build_transformers(
    files: TransformersFiles,
    device: str,
    dtype: torch.dtype,
    to_be_packed: bool = False,
    progress: bool = False,
) -> tuple[MimiModel, LMModel | None]:
    """The codec, and the language model where there is one.

    Args:
        device: "meta" checks the files and leaves their contents where they are.
        to_be_packed, progress: as for `build_lm`.

    Raises:
        CheckpointError: files that are damaged or do not fit the configuration.
    """
    stored = read_stored(files.weights, "meta" if device == "meta" else "cpu")
    with torch.device("meta"):
        mimi_names = dict(MimiModel(files.mimi_config).state_dict())
        lm = None if files.lm_config is None else LMModel(files.lm_config)
    prefix = "" if lm is None else CODEC_PREFIX
    pairings = mimi_pairings(mimi_names, files.mimi_config.transformer, prefix)
    wanted = to_theirs(pairings, mimi_names)
    lm_pairings: list[Pairing] = []
    if lm is not None:
        lm_pairings = moshi_pairings(lm.config)
        wanted |= to_theirs(lm_pairings, lm.state_dict())
    check_tensors(wanted, stored)
    mimi = fill_mimi(files.mimi_config, _ours(pairings, stored), device)
    if lm is None:
        return mimi, None
    ours = _ours(lm_pairings, stored)
    stored.tensors.clear()
    return mimi, fill_lm(lm, ours, device, dtype, to_be_packed=to_be_packed, progress=progress)


def _ours(pairings: list[Pairing], stored: Stored) -> Stored:
    return Stored(stored.source, to_ours(pairings, stored.tensors))
