"""Reads transcripts that are there already: plain text, subtitles, or a list of texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moshi_agent.errors import ConfigError, DataError

BESIDE = "beside"
_SUFFIXES = (".srt", ".vtt", ".txt")


@dataclass(frozen=True, slots=True)
class Cue:
    """Holds a piece of text that is said in one go, and when, where the transcript says so."""

    text: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Transcripts:
    """Finds the transcript of an audio file.

    Args:
        folder: with `NAME.srt`, `.vtt` or `.txt` for each audio file, in the same sub-folders; None is beside
            it.
        texts: by the path of the audio; then no folder is looked at.
    """

    root: Path  # that of the audio
    folder: Path | None = None
    texts: dict[Path, str] | None = None

    def of(self, audio: Path) -> list[Cue]:
        """Reads what is said in a file. Raises DataError where no transcript is, or none can be read."""
        if self.texts is not None:
            text = self.texts.get(audio.resolve())
            if text is None:
                raise DataError(f"the transcripts have no text for {audio}")
            return _lines(text)
        place = audio if self.folder is None else self.folder / _below(audio, self.root)
        for suffix in _SUFFIXES:
            path = place.with_suffix(suffix)
            if path.is_file():
                return read_transcript(path)
        raise DataError(f"there is no transcript {place.with_suffix('')}{{{','.join(_SUFFIXES)}}}")


def open_transcripts(where: str, root: Path) -> Transcripts:
    """Finds transcripts `beside` the audio, in a folder, or in a `.jsonl` of `{"path": ..., "text": ...}`.

    Raises:
        ConfigError: there is no such file or folder.
        DataError: a line of the file has another form; its number is told.
    """
    path = Path(where)
    if where == BESIDE:
        return Transcripts(root)
    if path.is_dir():
        return Transcripts(root, folder=path)
    if path.is_file() and path.suffix == ".jsonl":
        return Transcripts(root, texts=_read_texts(path))
    raise ConfigError(f"transcripts {where!r}: accepted are {BESIDE!r}, a folder, and a .jsonl file")


def read_transcript(path: Path) -> list[Cue]:
    """Reads the cues of a subtitle file, or the lines of a text.

    Raises:
        DataError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return _lines(text) if path.suffix == ".txt" else _subtitles(path, text)


def _lines(text: str) -> list[Cue]:
    return [Cue(line) for line in text.splitlines() if line.strip()]


def _subtitles(path: Path, text: str) -> list[Cue]:
    try:
        import pysubs2
        from pysubs2.exceptions import Pysubs2Error
    except ModuleNotFoundError as error:
        hint = "pip install 'moshi-agent[annotate]'"
        raise ConfigError(f"subtitles need the package pysubs2: {hint}") from error
    try:
        found = pysubs2.SSAFile.from_string(text, format_=path.suffix[1:])
    except (Pysubs2Error, ValueError) as error:
        raise DataError(f"{path} cannot be read as subtitles: {error}") from error
    cues = [Cue(event.plaintext, event.start / 1000, event.end / 1000) for event in found if event.is_text]
    if text.strip() and not cues:
        raise DataError(f"{path} has no subtitles in it")
    return cues


def _read_texts(path: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: no JSON ({error})") from error
        fields = cast("dict[str, object]", row) if isinstance(row, dict) else {}
        name, text = fields.get("path"), fields.get("text")
        if not isinstance(name, str) or not isinstance(text, str) or "\0" in name:
            raise DataError(
                f'{path}, line {number}: wanted is {{"path": "calls/a.wav", "text": "what is said"}}'
            )
        texts[(path.parent / name).resolve()] = text
    return texts


def _below(path: Path, root: Path) -> Path:
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
