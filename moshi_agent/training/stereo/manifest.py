"""The list of recordings: a file with one JSON object a line, `{"path": ..., "duration": ...}`."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moshi_agent.errors import DataError
from moshi_agent.outputs import naming, whole_file

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64")
_LONGEST_S = 1e9


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """Names a conversation, and says how long it claims to be."""

    path: Path
    duration_s: float | None = None


def read_manifest(path: Path) -> list[ManifestEntry]:
    """Reads the list in a `.jsonl` or `.jsonl.gz` file. Paths in it are relative to its folder.

    Raises:
        DataError: it cannot be read, is empty, or has a line of another form, whose number is told.
    """
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}")
    if path.suffix.lower() in AUDIO_SUFFIXES:
        raise DataError(f"{path} is a recording; accepted: a .jsonl manifest, or a folder of recordings")
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = text.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a manifest: {error}") from error
    entries = [
        _entry(line, path.parent, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not entries:
        raise DataError(
            f'{path} lists nothing; needed is a line {{"path": ..., "duration": ...}} for each file'
        )
    return entries


def list_audio(source: Path) -> list[Path]:
    """Lists the audio files in a folder and all below it, sorted; or those of a manifest, in its order.

    Raises:
        DataError: as `read_manifest`.
    """
    if not source.is_dir():
        return [entry.path for entry in read_manifest(source)]
    return sorted(
        path for path in source.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()
    )


def write_manifest(path: Path, entries: Iterable[ManifestEntry]) -> None:
    """Writes the file whole or not at all, with paths relative to its folder where they are below it.

    Raises:
        OutputError: it cannot be written.
    """
    lines = [
        json.dumps({"path": _relative(entry.path, path.parent), "duration": entry.duration_s}) + "\n"
        for entry in entries
    ]
    with whole_file(path) as temporary, naming(path):
        temporary.write_text("".join(lines))


def _entry(line: str, folder: Path, place: str) -> ManifestEntry:
    wanted = 'wanted is {"path": "calls/a.wav", "duration": 24.5}'
    try:
        fields: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: no JSON ({error}); {wanted}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: {line.strip()[:60]!r} is no JSON object; {wanted}")
    found = cast("dict[str, object]", fields)
    name, duration_s = found.get("path"), found.get("duration")
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{place}: the path is {name!r}; {wanted}")
    if duration_s is None:
        return ManifestEntry(folder / name)
    if (
        not isinstance(duration_s, int | float)
        or isinstance(duration_s, bool)
        or not 0 < duration_s < _LONGEST_S
    ):
        raise DataError(f"{place}: the duration is {duration_s!r}; wanted is a number of seconds above 0")
    return ManifestEntry(folder / name, float(duration_s))


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
