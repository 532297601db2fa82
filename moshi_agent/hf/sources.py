"""Checkpoints in any format, as the classes of `moshi_agent.hf` read them."""

from __future__ import annotations

import os
from typing import Any

from moshi_agent.checkpoint.format import CheckpointFiles, Origin
from moshi_agent.checkpoint.formats import format_of
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.tensors import read_json, read_tensors
from moshi_agent.checkpoint.transformers.format import TRANSFORMERS
from moshi_agent.checkpoint.transformers.write_config import (
    GENERATION_CONFIG_NAME,
    write_generation_config,
    write_mimi_config,
    write_moshi_config,
)
from moshi_agent.config import MoshiConfig as LMConfig
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import REFERENCES_TABLE

# How LMGen chooses unless it is told.
_SETTINGS: dict[str, Any] = {
    "temp": 0.8,
    "temp_text": 0.7,
    "top_k": 250,
    "top_k_text": 25,
    "use_sampling": True,
}


def config_values(origin: Origin, files: CheckpointFiles) -> dict[str, Any]:
    """The `config.json` of Transformers that goes with these files, made where they are of another format.

    Raises:
        ConfigError: a model that the format of Transformers cannot hold.
    """
    if TRANSFORMERS.knows(origin):
        return origin.config
    config, mimi_config = files.read_lm_config(), files.read_mimi_config()
    return write_mimi_config(mimi_config) if config is None else write_moshi_config(config, mimi_config)


def read_config(source: str | os.PathLike[str], revision: str | None, token: str | None) -> dict[str, Any]:
    """The same of a checkpoint by its name; a folder with nothing but a `config.json` is enough.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    origin = Origin.of(open_source(source, revision, token), token)
    if TRANSFORMERS.knows(origin):
        return origin.config
    return config_values(origin, format_of(origin).locate(origin))


def generation_values(origin: Origin, files: CheckpointFiles) -> dict[str, Any]:
    """The `generation_config.json` that goes with these files; Kyutai's models sample by default."""
    if TRANSFORMERS.knows(origin):
        path = origin.source.find(GENERATION_CONFIG_NAME)
        return {} if path is None else read_json(path)
    config, advised = files.read_lm_config(), files.usage.lm_gen_config
    settings = {key: advised[key] for key in _SETTINGS if key in advised}
    return write_generation_config(_SETTINGS | settings, 0 if config is None else config.dep_q)


def refuse_references(config: LMConfig, files: CheckpointFiles) -> None:
    """Refuses a language model that reads a table of references in every step, as KAME does: it has no place.

    One whose table is nothing at the padding is the same without it.

    Raises:
        ConfigError: such a model.
    """
    if files.references is None:
        return
    table = read_tensors(files.references, "cpu").get(REFERENCES_TABLE)
    if table is not None and table[config.text_padding_id].any():
        raise ConfigError(
            f"{files.references}: the model reads a table of references, for which the classes of "
            "Transformers have no place; accepted: load_checkpoint, Engine.load"
        )
