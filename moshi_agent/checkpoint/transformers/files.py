"""A checkpoint in the format of Hugging Face Transformers: its files, and the tensors they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from moshi_agent.checkpoint.format import REFERENCES_NAME
from moshi_agent.checkpoint.sources import Source, get
from moshi_agent.checkpoint.tensors import Stored, check_tensors, read_json, read_stored, read_weight_map
from moshi_agent.checkpoint.transformers.config import read_mimi_config, read_moshi_config
from moshi_agent.checkpoint.transformers.names import (
    Pairing,
    mimi_pairings,
    moshi_pairings,
    text_pairings,
    to_ours,
    to_theirs,
)
from moshi_agent.checkpoint.transformers.write_config import GENERATION_CONFIG_NAME, read_generation_config
from moshi_agent.checkpoint.usage import MOSHI, Usage
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

CODEC_PREFIX = "audio_encoder."

_CODEBOOKS_OF_CODEC = 8  # in use, of a codec alone


@dataclass(frozen=True)
class TransformersFiles:
    """The files on this machine, and the configurations read from `config.json`."""

    weights: Path  # one file, or the index of several
    paths: list[Path]  # files with weights, and the tokenizer
    tokenizer: Path | None
    mimi_config: MimiConfig
    lm_config: MoshiConfig | None  # None for the codec alone
    usage: Usage = field(default_factory=Usage)
    lora_weights: None = None  # the format has no place for them, nor for voices
    voices: None = None
    references: Path | None = None  # of what the model is told ahead; the format has no place for others

    @property
    def num_codebooks(self) -> int:
        """See `CheckpointFiles.num_codebooks`."""
        if self.lm_config is None:
            return min(_CODEBOOKS_OF_CODEC, self.mimi_config.quantizer.n_q)
        return self.lm_config.dep_q

    def read_lm_config(self) -> MoshiConfig | None:
        """Implements `CheckpointFiles.read_lm_config`."""
        return self.lm_config

    def read_mimi_config(self) -> MimiConfig:
        """Implements `CodecFiles.read_mimi_config`."""
        return self.mimi_config

    def read_mimi(self, device: str = "cpu") -> Stored:
        """Implements `CodecFiles.read_mimi`."""
        with torch.device("meta"):
            codec = MimiModel(self.mimi_config).state_dict()
        prefix = "" if self.lm_config is None else CODEC_PREFIX
        stored = self._stored(device, is_codec=True)
        pairings = mimi_pairings(codec, self.mimi_config.transformer, prefix)
        check_tensors(to_theirs(pairings, codec), stored)
        return _ours(pairings, stored)

    def read_lm(self, device: str = "cpu", only: Collection[str] | None = None) -> Stored:
        """Implements `CheckpointFiles.read_lm`."""
        assert self.lm_config is not None, "a codec alone"
        stored = self._stored(device, is_codec=False)
        if only is not None:
            return _read_part(stored, self.lm_config, only)
        with torch.device("meta"):
            wanted = LMModel(self.lm_config).state_dict()
        pairings = moshi_pairings(self.lm_config)
        check_tensors(to_theirs(pairings, wanted), stored)
        return _ours(pairings, stored)

    def _stored(self, device: str, is_codec: bool) -> Stored:
        """The tensors of one of both models, by their names there."""
        stored = read_stored(self.weights, device)
        if self.lm_config is not None:
            for name in list(stored.tensors):
                if name.startswith(CODEC_PREFIX) != is_codec:
                    del stored.tensors[name]
        return stored


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
    except (
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ) as error:  # a number for a list, and the like
        raise ConfigError(f"{config_path}: a value of the wrong kind ({error})") from error
    usage = Usage(model_type="mimi") if lm_config is None else _usage(source)
    weights = source.find(WEIGHTS_NAME) or source.find(INDEX_NAME)
    if weights is None:
        raise CheckpointError(f"{source.name}: there is neither {WEIGHTS_NAME} nor {INDEX_NAME} in it")
    paths = [weights]
    if weights.name == INDEX_NAME:
        paths = [get(source, shard) for shard in sorted(set(read_weight_map(weights).values()))]
    tokenizer = source.find_tokenizer() if lm_config is not None else None
    paths += [] if tokenizer is None else [tokenizer]
    references = None if lm_config is None else _references(source)
    return TransformersFiles(weights, paths, tokenizer, mimi_config, lm_config, usage, references=references)


def _references(source: Source) -> Path | None:
    """The table for what the model is told ahead, if it is; a hub may not tell whether it has one."""
    try:
        return source.find(REFERENCES_NAME)
    except CheckpointError:
        return None


def _usage(source: Source) -> Usage:
    """What `generation_config.json` advises; raises ConfigError."""
    path = source.find(GENERATION_CONFIG_NAME)
    if path is None:
        return Usage()
    try:
        return Usage(model_type=MOSHI, lm_gen_config=read_generation_config(read_json(path)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_part(stored: Stored, config: MoshiConfig, names: Collection[str]) -> Stored:
    """The text stream's part, out of whichever model was saved; tensors of other parts are passed over."""
    for prefix in ("decoder.model.", "model.", ""):
        pairings = text_pairings(config, names, prefix)
        missing = {name for pairing in pairings for name in pairing.theirs} - set(stored.tensors)
        if not missing:
            return _ours(pairings, stored)
    raise CheckpointError(
        f"{stored.source}: tensors do not match the configuration: missing {stored.shown(missing)}"
    )


def _ours(pairings: list[Pairing], stored: Stored) -> Stored:
    return Stored(stored.source, to_ours(pairings, stored.tensors))
