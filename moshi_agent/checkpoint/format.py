"""What a format of checkpoints is: one object of these methods, in the list of `formats.py`.

A format that is not in the list can be given to `load_checkpoint`, `download_checkpoint`, `load_codec` and
`convert_checkpoint` by whoever has it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from moshi_agent.checkpoint.sources import Source
from moshi_agent.checkpoint.tensors import Stored, read_json
from moshi_agent.checkpoint.usage import Usage
from moshi_agent.config import MimiConfig, MoshiConfig

Reference = str | os.PathLike[str]  # a path, or a name as `sources.resolve` reads it

DEFAULT_SHARD_SIZE = "5GB"
REFERENCES_NAME = "references.safetensors"  # beside the weights, which other packages read without it


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from, and its `config.json`, by which most formats are told."""

    source: Source
    token: str | None = None
    config_path: Path | None = None  # None where there is no such file
    config: dict[str, Any] = field(default_factory=dict[str, Any])

    @staticmethod
    def of(source: Source, token: str | None = None) -> Origin:
        """Reads the file. Raises CheckpointError where it cannot be fetched, or is no JSON file."""
        path = source.find("config.json")
        return Origin(source, token, path, {} if path is None else read_json(path))


class CodecFiles(Protocol):
    """The files of a codec on this machine, and how they are read."""

    def read_mimi_config(self) -> MimiConfig:
        """Reads the codec's configuration. Raises ConfigError where no codec can be built from it."""
        ...

    def read_mimi(self, device: str = "cpu") -> Stored:
        """Reads the codec's tensors: by our names, each in the type that its file has.

        Args:
            device: "cpu", or "meta" for shapes and types only.

        Raises:
            CheckpointError: a file that is missing or damaged.
        """
        ...


class CheckpointFiles(CodecFiles, Protocol):
    """The files of a checkpoint on this machine, and how they are read."""

    @property
    def paths(self) -> list[Path]:
        """Every file that is needed beside the configurations."""
        ...

    @property
    def usage(self) -> Usage:
        """What the checkpoint says about its use."""
        ...

    @property
    def num_codebooks(self) -> int:
        """How many codebooks of the codec the model speaks or hears."""
        ...

    @property
    def tokenizer(self) -> Path | None:
        """The sentencepiece model, where there is one."""
        ...

    @property
    def lora_weights(self) -> Path | None:
        """Low-rank updates of the language model, by Kyutai's names."""
        ...

    @property
    def voices(self) -> Path | None:
        """An archive or a folder of the voices that come with the model."""
        ...

    @property
    def references(self) -> Path | None:
        """The file with the table of a language model that takes a stream of references, or is told ahead."""
        ...

    def read_lm_config(self) -> MoshiConfig | None:
        """Reads the language model's configuration; None for a codec alone. Raises ConfigError."""
        ...

    def read_lm(self, device: str = "cpu", only: Collection[str] | None = None) -> Stored:
        """Reads the language model's tensors, as `read_mimi` the codec's.

        Args:
            only: these are wanted, and a file without the others will do.
        """
        ...


class Format(Protocol):
    """One way to write a checkpoint down."""

    @property
    def name(self) -> str:
        """What `convert` calls it."""
        ...

    def knows(self, origin: Origin) -> bool:
        """Tells whether a checkpoint is in this format."""
        ...

    def locate(self, origin: Origin, lora: Reference | None = None) -> CheckpointFiles:
        """Finds, and fetches where it has to, the files of a checkpoint in this format.

        Args:
            lora: low-rank updates to use with the model: a path, or `hf://owner/name/file`.

        Raises:
            CheckpointError: a file that is missing, cannot be fetched, or is of another kind.
            ConfigError: a configuration that is not supported.
        """
        ...

    def locate_codec(self, origin: Origin) -> CodecFiles:
        """Finds the files of the codec, and leaves those of a language model alone. Raises as `locate`."""
        ...

    def write(self, files: CheckpointFiles, folder: Path, max_shard_size: int | str) -> None:
        """Writes a checkpoint of another format in this one, every tensor bit for bit.

        Args:
            folder: made where there is none.
            max_shard_size: of one weight file, in bytes or like "5GB", where the format has several.

        Raises:
            CheckpointError: files that are damaged, or lack what the format needs.
            ConfigError: a model that the format cannot hold, with the reason; nothing is written then.
            OutputError: a file cannot be written.
        """
        ...
