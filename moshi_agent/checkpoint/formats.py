"""The formats that are known, and which of them a checkpoint is in."""

from __future__ import annotations

from collections.abc import Sequence

from moshi_agent.checkpoint.format import CheckpointFiles, Format, Origin, Reference
from moshi_agent.checkpoint.kyutai.format import KYUTAI
from moshi_agent.checkpoint.sources import Source
from moshi_agent.checkpoint.transformers.format import TRANSFORMERS
from moshi_agent.errors import CheckpointError

# Asked in this order. Kyutai's is the last: its first repositories have nothing by which they are told.
FORMATS: Sequence[Format] = (TRANSFORMERS, KYUTAI)


def format_of(origin: Origin, formats: Sequence[Format] = FORMATS) -> Format:
    """Finds the format that a checkpoint is in. Raises CheckpointError where none knows it."""
    found = next((one for one in formats if one.knows(origin)), None)
    if found is None:
        known = ", ".join(one.name for one in formats)
        raise CheckpointError(f"{origin.source.name}: in no format that is known; accepted: {known}")
    return found


def locate(
    source: Source,
    token: str | None = None,
    lora: Reference | None = None,
    formats: Sequence[Format] = FORMATS,
) -> CheckpointFiles:
    """Finds the files of a checkpoint, and fetches them where it has to.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    origin = Origin.of(source, token)
    return format_of(origin, formats).locate(origin, lora)
