"""The codec of a checkpoint, without its language model, and a codec written by itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from moshi_agent.checkpoint.format import Format, Origin
from moshi_agent.checkpoint.formats import FORMATS, format_of
from moshi_agent.checkpoint.kyutai.mimi_config import read_codec_config, write_mimi_config
from moshi_agent.checkpoint.kyutai.save import MIMI_CONFIG_NAME, MIMI_NAME, mimi_tensors
from moshi_agent.checkpoint.models import fill_mimi
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.checkpoint.write import make_folder, write_json, write_tensors
from moshi_agent.models.mimi import MimiModel


def load_codec(
    source: str | os.PathLike[str],
    device: str = "cpu",
    revision: str | None = None,
    token: str | None = None,
    formats: Sequence[Format] = FORMATS,
) -> MimiModel:
    """Loads the codec, with all its codebooks in use. A language model beside it is neither fetched nor read.

    Args:
        source: as `load_checkpoint` takes it, or a folder that `save_codec` wrote.

    Raises:
        CheckpointError: a file that is missing, cannot be fetched, is damaged, or does not fit.
        ConfigError: a configuration that no codec can be built from.
    """
    origin = Origin.of(open_source(source, revision, token), token)
    files = format_of(origin, formats).locate_codec(origin)
    return fill_mimi(files.read_mimi_config(), files.read_mimi(), device)


def new_codec(config: Path) -> MimiModel:
    """Makes a codec with fresh weights, as a `mimi_config.json` describes it.

    Raises:
        CheckpointError: the file is missing, or no JSON file.
        ConfigError: no codec can be built from it.
    """
    return MimiModel(read_codec_config(read_json(config), str(config)))


def save_codec(folder: Path, codec: MimiModel, dtype: torch.dtype = torch.float32) -> None:
    """Writes `mimi.safetensors` and `mimi_config.json` in Kyutai's format, as `loaders.get_mimi` reads them.

    Args:
        dtype: of the weights on disk. Codebooks stay float32.

    Raises:
        CheckpointError: a codec that is packed.
        OutputError: a file cannot be written.
    """
    tensors = mimi_tensors(codec, dtype)
    make_folder(folder)
    write_tensors(folder / MIMI_NAME, tensors)
    write_json(folder / MIMI_CONFIG_NAME, write_mimi_config(codec.config))
