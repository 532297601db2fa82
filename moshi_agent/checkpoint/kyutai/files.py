"""Which files make up a checkpoint in Kyutai's format, and what its `config.json` says beside the model."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from moshi_agent.checkpoint.format import REFERENCES_NAME, Reference
from moshi_agent.checkpoint.kyutai.config import (
    CHECKPOINT_KEYS,
    MOSHI_7B,
    NOTES,
    naming_config,
    read_moshi_config,
)
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config
from moshi_agent.checkpoint.kyutai.weights import read_kyutai_lm, read_kyutai_mimi
from moshi_agent.checkpoint.sources import Folder, Source, resolve
from moshi_agent.checkpoint.tensors import Stored, read_json, tensor_names
from moshi_agent.checkpoint.usage import MOSHI, PERSONAPLEX, TTS, Usage
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError
from moshi_agent.models.lm import REFERENCES_TABLE

MOSHI_NAME = "model.safetensors"
MOSHI_Q8_NAME = "model.q8.safetensors"
MIMI_NAME = "tokenizer-e351c8d8-checkpoint125.safetensors"
TEXT_TOKENIZER_NAME = "tokenizer_spm_32k_3.model"

VOICES_NAME = "voices.tgz"
VOICES_FOLDER = "voices"

_SECTIONS = tuple(one.name for one in fields(Usage))

_log = logging.getLogger("moshi_agent.checkpoint")


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
    model_type: str = MOSHI
    lora_weights: Path | None = None
    voices: Path | None = None  # an archive or a folder of the voices that come with the model
    references: Path | None = None  # what has the table for a stream of references
    lm_gen_config: dict[str, Any] = field(default_factory=dict[str, Any])
    tts_config: dict[str, Any] = field(default_factory=dict[str, Any])
    stt_config: dict[str, Any] = field(default_factory=dict[str, Any])
    model_id: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def paths(self) -> list[Path]:
        """The files with weights, the tokenizer, and the archive of voices."""
        lora = [] if self.lora_weights is None else [self.lora_weights]
        voices = [self.voices] if self.voices is not None and self.voices.is_file() else []
        references = [] if self.references in (None, self.moshi_weights) else [self.references]
        return [self.moshi_weights, *references, *lora, self.mimi_weights, self.tokenizer, *voices]

    @property
    def num_codebooks(self) -> int:
        """How many codebooks of the codec the model speaks or hears."""
        config = MOSHI_7B if self.lm_config is None else self.lm_config
        n_q, dep_q = config.get("n_q", 8), config.get("dep_q", 8)
        count = max(dep_q, n_q - dep_q)
        return count // 2 if self.tts_config.get("multistream") else count

    @property
    def usage(self) -> Usage:
        """What `config.json` says about the use of the model."""
        return Usage(**{name: getattr(self, name) for name in _SECTIONS})

    def read_lm_config(self) -> MoshiConfig:
        """Raises ConfigError for an unknown key, or values that do not fit."""
        return read_moshi_config(self.lm_config)

    def read_mimi_config(self) -> MimiConfig:
        """Raises ConfigError for an unknown key, or values that do not fit."""
        return read_mimi_config(self.mimi_config)

    def read_mimi(self, device: str = "cpu") -> Stored:
        """Implements `CodecFiles.read_mimi`."""
        return read_kyutai_mimi(self.read_mimi_config(), self.mimi_weights, device)

    def read_lm(self, device: str = "cpu", only: Collection[str] | None = None) -> Stored:
        """Implements `CheckpointFiles.read_lm`."""
        stored = read_kyutai_lm(self.read_lm_config(), self.moshi_weights, device)
        if only is not None:
            # The scales of int8 weights stay with them, and are then no part of a model without.
            for name in [one for one in stored.tensors if one.removesuffix("_scb") not in only]:
                del stored.tensors[name]
        return stored


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

    A file that is given stands instead of the checkpoint's own; voices are looked for beside given weights.

    Raises:
        CheckpointError: a file that is missing, cannot be fetched, or is no JSON file.
        ConfigError: `config.json` has an unknown key.
    """
    path = source.find("config.json") if config_path is None else config_path
    raw = None if path is None else read_json(path)
    said = {key: raw[key] for key in CHECKPOINT_KEYS if raw.get(key) is not None} if raw else {}

    def locate(given: Reference | None, key: str, default: str | None) -> Path | None:
        if given is not None:
            return resolve(_as_reference(given), source, token)
        name = said.get(key) or default
        return None if name is None else resolve(str(name), source, token)

    with naming_config(str(path)):
        usage = Usage(**{key: said[key] for key in _SECTIONS if key in said})
        lm_config = None if raw is None else _lm_config(raw, usage)
        config = read_moshi_config(lm_config)  # before anything large is fetched
    mimi_config = locate(mimi_config_path, "mimi_config_name", None)
    weights = MOSHI_NAME if path is not None else _legacy_weights(source)
    files = KyutaiFiles(
        moshi_weights=_there(locate(moshi_weights, "moshi_name", weights)),
        mimi_weights=_there(locate(mimi_weights, "mimi_name", MIMI_NAME)),
        tokenizer=_there(locate(tokenizer, "tokenizer_name", TEXT_TOKENIZER_NAME)),
        lm_config=lm_config,
        raw_config=raw,
        mimi_config=None if mimi_config is None else read_json(mimi_config),
        lora_weights=locate(lora_weights, "lora_name", None),
        **{one.name: getattr(usage, one.name) for one in fields(usage)},
    )
    with naming_config(str(mimi_config)):
        files.read_mimi_config()
    if usage.kind_of(config) == "dialogue":
        files.references = _references(source, files)
    if usage.takes_personas or (usage.kind_of(config) == "dialogue" and _predicts_user(files, config)):
        files.voices = _voices(source, moshi_weights)
        # Told by what it is, for its `config.json` may not say it, or not be there.
        files.model_type = PERSONAPLEX if files.voices is not None else files.model_type
    return files


def _predicts_user(files: KyutaiFiles, config: MoshiConfig) -> bool:
    """Whether the file has depth steps for the user's codebooks as well, as PersonaPlex's has."""
    return f"linears.{config.n_q - 1}.weight" in tensor_names(files.moshi_weights)


def _references(source: Source, files: KyutaiFiles) -> Path | None:
    """The table for references: beside low-rank updates, among the weights, as in KAME, or beside those."""
    if files.lora_weights is not None and (files.lora_weights.parent / REFERENCES_NAME).is_file():
        return files.lora_weights.parent / REFERENCES_NAME
    if REFERENCES_TABLE in tensor_names(files.moshi_weights):
        return files.moshi_weights
    try:
        return source.find(REFERENCES_NAME)
    except CheckpointError:  # offline, a hub that was never asked for it cannot tell whether it has one
        return None


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


def _voices(source: Source, moshi_weights: Reference | None) -> Path | None:
    """The voices beside the model, unpacked or not."""
    if isinstance(given := None if moshi_weights is None else _as_reference(moshi_weights), Path):
        source = Folder(given.parent, str(given.parent))
    if isinstance(source, Folder) and (source.path / VOICES_FOLDER).is_dir():
        return source.path / VOICES_FOLDER
    return source.find(VOICES_NAME)


def _lm_config(raw: Mapping[str, Any], usage: Usage) -> dict[str, Any]:
    """The keys that are about the model; a file with none of them is about the published Moshi 7B."""
    config = {key: value for key, value in raw.items() if key not in CHECKPOINT_KEYS}
    notes = sorted(key for key in config if key in NOTES or key.startswith("_"))
    if notes:
        _log.warning("config.json: %s has no effect here", ", ".join(notes))
        config = {key: value for key, value in config.items() if key not in notes}
    if usage.takes_personas and "dim" not in config:
        # NVIDIA's own code looks at nothing in this file: unless it is about a model, it is about theirs.
        config = {}
    config = config or dict(MOSHI_7B)
    n_q, dep_q = config.get("n_q", 8), config.get("dep_q", 8)
    if dep_q == n_q and not _speaks_alone(config, usage):
        # The user's codebooks, which the file predicts as well, come from the user.
        config["dep_q"] = n_q - n_q // 2
    return config


def _speaks_alone(config: Mapping[str, Any], usage: Usage) -> bool:
    """Whether a model is meant to hear nobody, as one for speech synthesis is."""
    has_two_texts = config.get("demux_second_stream") or config.get("demux_second_text_stream")
    shares_steps = config.get("depformer_weights_per_step_schedule")  # which then belong to no codebook alone
    return bool(usage.model_type == TTS or usage.tts_config or has_two_texts or shares_steps)
