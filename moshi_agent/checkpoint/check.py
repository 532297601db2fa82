"""Fetches a checkpoint and checks it, without loading it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moshi_agent.checkpoint.format import Format, Reference
from moshi_agent.checkpoint.formats import FORMATS, locate
from moshi_agent.checkpoint.load import Options, build
from moshi_agent.checkpoint.sources import open_source


@dataclass(frozen=True)
class CheckedFile:
    """One file of a checkpoint that is here and whole."""

    path: Path
    size: int  # bytes


def download_checkpoint(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    lora: Reference | None = None,
    formats: Sequence[Format] = FORMATS,
) -> list[CheckedFile]:
    """Fetches all files that `load_checkpoint` will need, and checks that they fit together.

    Of weight files the headers are read: every tensor that the configuration asks for is there, with
    its shape, and the file is long enough to hold it.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    place = open_source(source, revision, token)
    files = locate(place, token, lora, formats)
    build(place.name, files, Options("meta", torch.float32, fuse_lora=True, pack=None))
    return [CheckedFile(path, path.stat().st_size) for path in files.paths]
