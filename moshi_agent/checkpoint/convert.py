"""A checkpoint in another format: the same tensors, bit for bit, under other names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from moshi_agent.checkpoint.format import DEFAULT_SHARD_SIZE, Format, Origin
from moshi_agent.checkpoint.formats import FORMATS, format_of
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.errors import CheckpointError, ConfigError


def convert_checkpoint(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    to: str,
    *,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    revision: str | None = None,
    token: str | None = None,
    formats: Sequence[Format] = FORMATS,
) -> None:
    """Writes a checkpoint in another format: of Kyutai's in that of Transformers, or the other way round.

    No tensor is rounded: each keeps the type that its file has, and there and back again every bit is as it
    was. The choice of tokens (`lm_gen_config`) goes to `generation_config.json`, and back.

    Args:
        source: as `load_checkpoint` takes it.
        folder: made where there is none.
        to: the name of a format, `kyutai` or `transformers`.
        max_shard_size: of one weight file of Transformers.
        formats: that are known, each told by the first that knows it.

    Raises:
        CheckpointError: files that are missing, damaged, or have the wanted format already.
        ConfigError: a model that the other format cannot hold, with the reason.
        OutputError: a file cannot be written.
    """
    target = Path(folder)
    wanted = next((one for one in formats if one.name == to), None)
    if wanted is None:
        raise ConfigError(f"to={to!r}; accepted: {', '.join(sorted(one.name for one in formats))}")
    origin = Origin.of(open_source(source, revision, token), token)
    if origin.config_path is not None and origin.config_path.parent.resolve() == target.resolve():
        raise CheckpointError(f"{target}: the checkpoint to be converted; another folder is needed")
    current = format_of(origin, formats)
    if current.name == to:
        raise CheckpointError(f"{origin.source.name}: its format is that of {to} already")
    wanted.write(current.locate(origin), target, max_shard_size)
