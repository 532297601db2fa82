"""Reads the configuration of a fine-tuning: YAML as moshi-finetune has it, or TOML with the same keys."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from moshi_agent.config import refuse_unknown_keys
from moshi_agent.errors import ConfigError
from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.runs.settings import build_settings, parse_toml, read_text

# YAML 1.1, which the library reads, takes `2e-6` for a text; YAML 1.2 and people do not.
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")

# Keys of moshi-finetune that nothing here answers to, and what does instead.
_REFUSED = {
    "wandb": "the metrics go to TensorBoard and metrics.jsonl in run_dir",
    "world_size": "the number of processes is what torchrun starts",
}


def read_finetune_config(path: Path) -> FineTuneConfig:
    """Reads the configuration in a `.yaml`, `.yml` or `.toml` file.

    Raises:
        ConfigError: the file cannot be read, has an unknown key, or a value that is not accepted.
    """
    try:
        return build_settings(_known(_read(path)), FineTuneConfig)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path) -> Mapping[str, Any]:
    text = read_text(path)
    if path.suffix == ".toml":
        return parse_toml(text)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError("accepted are files whose name ends in .yaml, .yml or .toml")
    return _read_yaml(text)


def _read_yaml(text: str) -> Mapping[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe one, with numbers as YAML 1.2 writes them."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(rf"^{_FLOAT.pattern}$"), [*"-+.0123456789"]
    )
    try:
        values: object = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"it is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"keys and values are needed; it holds a {type(values).__name__}")
    return cast("Mapping[str, Any]", values)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing, and without what is said in another way here."""
    given = dict(values)
    refused = {key: reason for key, reason in _REFUSED.items() if given.get(key)}
    if refused:
        raise ConfigError("; ".join(f"{key} is not used: {reason}" for key, reason in refused.items()))
    if given.get("overwrite_run_dir"):
        raise ConfigError(
            "overwrite_run_dir is not used: a run goes on in its run_dir; to begin anew, delete it"
        )
    for key in (*_REFUSED, "overwrite_run_dir"):
        given.pop(key, None)
    if given.get("num_ckpt_keep", 0) is None:
        given["num_ckpt_keep"] = 0
    refuse_unknown_keys(given, [field.name for field in dataclasses.fields(FineTuneConfig)], "settings")
    return _said(given)


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without nulls and empty texts, which stand where nothing was filled in."""
    nested = {key: _said(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value is not None and value != ""}
