"""Which files make up a checkpoint in Kyutai's format, and what its `config.json` says beside the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moshi_agent.checkpoint.kyutai.config import CHECKPOINT_KEYS, MOSHI_7B, read_moshi_config
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config
from moshi_agent.checkpoint.sources import Folder, Source, resolve
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import ConfigError

MOSHI_NAME = "model.safetensors"
MOSHI_Q8_NAME = "model.q8.safetensors"
MIMI_NAME = "tokenizer-e351c8d8-checkpoint125.safetensors"
TEXT_TOKENIZER_NAME = "tokenizer_spm_32k_3.model"

PERSONAPLEX = "personaplex"  # the `model_type` of models that take a role and a voice
VOICES_NAME = "voices.tgz"
VOICES_FOLDER = "voices"

_SECTIONS = ("model_type", "lm_gen_config", "tts_config", "stt_config", "model_id")

Reference = str | os.PathLike[str]  # a path, or a name as `sources.resolve` reads it


@dataclass
class KyutaiFiles:
    """The files on this machine, and the configurations that go with them.

    `lm_config` and `mimi_config` are as the loaders take them; None is the published Moshi 7B and
    the published codec.
    """

    moshi_weights: Path
    mimi_weights: Path
    tokenizer: Path
    lm_config: dict[str, Any] | None = None
    raw_config: dict[str, Any] | None = None
    mimi_config: dict[str, Any] | None = None
    model_type: str = "moshi"
    lora_weights: Path | None = None
    voices: Path | None = None  # an archive or a folder of the voices that come with the model
    lm_gen_config: dict[str, Any] = field(default_factory=dict[str, Any])
    tts_config: dict[str, Any] = field(default_factory=dict[str, Any])
    stt_config: dict[str, Any] = field(default_factory=dict[str, Any])
    model_id: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def paths(self) -> list[Path]:
        """The files with weights, the tokenizer, and the archive of voices."""
        lora = [] if self.lora_weights is None else [self.lora_weights]
        voices = [self.voices] if self.voices is not None and self.voices.is_file() else []
        return [self.moshi_weights, *lora, self.mimi_weights, self.tokenizer, *voices]

    @property
    def num_codebooks(self) -> int:
        """How many codebooks of the codec the model speaks or hears."""
        config = MOSHI_7B if self.lm_config is None else self.lm_config
        n_q, dep_q = config.get("n_q", 8), config.get("dep_q", 8)
        count = max(dep_q, n_q - dep_q)
        return count // 2 if self.tts_config.get("multistream") else count

    def read_lm_config(self) -> MoshiConfig:
        """Raises ConfigError for an unknown key, or values that do not fit."""
        return read_moshi_config(self.lm_config)

    def read_mimi_config(self) -> MimiConfig:
        """Raises ConfigError for an unknown key, or values that do not fit."""
        return read_mimi_config(self.mimi_config)


def locate_kyutai(
    source: Source,
    token: str | None = None,
    *,
    moshi_weights: Reference | None = None,
    mimi_weights: Reference | None = None,
    tokenizer: Reference | None = None,
    config_path: Path | None = None,
    mimi_config_path: Reference | None = None,
    lora_weights: Reference | None = None,
) -> KyutaiFiles:
    """Finds, and fetches where it has to, the files of a checkpoint.

    A file that is given stands instead of the checkpoint's own.

    Raises:
        CheckpointError: a file that is missing, cannot be fetched, or is no JSON file.
        ConfigError: `config.json` has an unknown key.
    """
    path = source.find("config.json") if config_path is None else config_path
    raw = None if path is None else read_json(path)
    said = {key: raw[key] for key in CHECKPOINT_KEYS if key in raw} if raw else {}

    def locate(given: Reference | None, key: str, default: str | None) -> Path | None:
        if given is not None:
            return resolve(_as_reference(given), source, token)
        name = said.get(key) or default
        return None if name is None else resolve(str(name), source, token)

    mimi_config = locate(mimi_config_path, "mimi_config_name", None)
    weights = MOSHI_NAME if path is not None else _legacy_weights(source)
    files = KyutaiFiles(
        moshi_weights=_there(locate(moshi_weights, "moshi_name", weights)),
        mimi_weights=_there(locate(mimi_weights, "mimi_name", MIMI_NAME)),
        tokenizer=_there(locate(tokenizer, "tokenizer_name", TEXT_TOKENIZER_NAME)),
        lm_config=None if raw is None else _lm_config(raw),
        raw_config=raw,
        mimi_config=None if mimi_config is None else read_json(mimi_config),
        lora_weights=locate(lora_weights, "lora_name", None),
        voices=_voices(source) if said.get("model_type") == PERSONAPLEX else None,
        **{key: said[key] for key in _SECTIONS if key in said},
    )
    if path is not None:
        _check(path, files.read_lm_config)
    if mimi_config is not None:
        _check(mimi_config, files.read_mimi_config)
    return files


def _as_reference(given: Reference) -> Reference:
    """What a caller gives is a path unless it says otherwise; what a configuration says is a name."""
    remote = isinstance(given, str) and given.startswith(("hf://", "file://"))
    return given if remote else Path(given)


def _there(path: Path | None) -> Path:
    assert path is not None, "it has a default name"
    return path


def _legacy_weights(source: Source) -> str:
    """The first repositories have no config.json; the int8 one among them has another file name."""
    int8_only = source.find(MOSHI_NAME) is None and source.find(MOSHI_Q8_NAME) is not None
    return MOSHI_Q8_NAME if int8_only else MOSHI_NAME


def _voices(source: Source) -> Path | None:
    """The voices beside the model, unpacked or not."""
    if isinstance(source, Folder) and (source.path / VOICES_FOLDER).is_dir():
        return source.path / VOICES_FOLDER
    return source.find(VOICES_NAME)


def _lm_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are about the model; a file with none of them is about the published Moshi 7B."""
    config = {key: value for key, value in raw.items() if key not in CHECKPOINT_KEYS}
    if raw.get("model_type") != PERSONAPLEX:
        return config or dict(MOSHI_7B)
    # NVIDIA's own code looks at nothing in this file: unless it is about a model, it is about theirs.
    config = config if "dim" in config else dict(MOSHI_7B)
    n_q = config.get("n_q", 8)
    # The user's codebooks, which theirs predicts as well, come from the user.
    return config | {"dep_q": min(config.get("dep_q", 8), n_q - n_q // 2)}


def _check(path: Path, read: Callable[[], object]) -> None:
    try:
        read()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (TypeError, KeyError, ValueError) as error:  # a number where a list is needed, and the like
        raise ConfigError(f"{path}: a value of the wrong kind ({error})") from error
