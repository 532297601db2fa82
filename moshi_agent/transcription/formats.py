"""A transcript as text, JSON, or subtitles (SubRip, WebVTT), written while it is made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from moshi_agent.config import require_value
from moshi_agent.text.pieces import ends_sentence
from moshi_agent.text.timed_reader import Pause, TimedPiece
from moshi_agent.text.word_tracker import TimedWord

FORMATS = ("text", "json", "srt", "vtt")

# A subtitle: two lines of 42 characters, on the screen for no longer than it takes to read them.
_MOST_CHARACTERS = 84
_LONGEST_CUE_S = 6.0
_LONGEST_GAP_S = 1.0  # between words of one subtitle


class TranscriptWriter(Protocol):
    """Writes parts of a transcript, in order."""

    def write(self, part: TimedPiece | TimedWord | Pause) -> None:
        """Takes the next part."""
        ...

    def close(self) -> None:
        """Writes what is left. The file stays open."""
        ...


def write_transcript(
    parts: Iterable[TimedPiece | TimedWord | Pause], file: TextIO, form: str = "text", **facts: Any
) -> None:
    """Writes a whole transcript.

    Args:
        form: `text`, one line between two pauses; `json`, words and pauses with their times; `srt` or `vtt`.
        facts: go into the JSON.

    Raises:
        ConfigError: another format.
    """
    writer = make_writer(file, form, facts)
    for part in parts:
        writer.write(part)
    writer.close()


def make_writer(file: TextIO, form: str, facts: dict[str, Any] | None = None) -> TranscriptWriter:
    """Makes a writer for parts that come one by one, otherwise as `write_transcript`. Raises ConfigError."""
    require_value("format", form, FORMATS)
    if form == "text":
        return _Text(file)
    return _Json(file, facts or {}) if form == "json" else _Subtitles(file, form)


class _Text:
    """Pieces as they come. After a pause, the words that come later begin a new line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._is_new_line = True
        self._paused_s: float | None = None  # since the line began

    def write(self, part: TimedPiece | TimedWord | Pause) -> None:
        match part:
            case TimedPiece(text, start):
                self._write(text, start)
            case Pause(at):
                self._paused_s = at
            case TimedWord():
                pass

    def _write(self, text: str, start: float) -> None:
        if self._paused_s is not None and start > self._paused_s and text.startswith(" "):
            self._paused_s = None
            self._end_line()
        text = text.lstrip() if self._is_new_line else text
        self._is_new_line = self._is_new_line and not text
        self._file.write(text)
        self._file.flush()

    def _end_line(self) -> None:
        if not self._is_new_line:
            self._file.write("\n")
        self._is_new_line = True

    def close(self) -> None:
        self._end_line()


class _Json:
    """One object: the text, the words and the pauses."""

    def __init__(self, file: TextIO, facts: dict[str, Any]) -> None:
        self._file, self._facts = file, facts
        self._words: list[dict[str, Any]] = []
        self._pauses: list[dict[str, Any]] = []

    def write(self, part: TimedPiece | TimedWord | Pause) -> None:
        if isinstance(part, TimedWord):
            self._words.append(asdict(part))
        elif isinstance(part, Pause):
            self._pauses.append({"at": part.at, "probability": round(part.probability, 3)})

    def close(self) -> None:
        text = " ".join(word["word"] for word in self._words)
        content = {**self._facts, "text": text, "words": self._words, "pauses": self._pauses}
        self._file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class _Subtitles:
    """Words in groups: as many as are read at once, up to the end of a sentence or a gap."""

    def __init__(self, file: TextIO, form: str) -> None:
        self._file = file
        self._decimal = "," if form == "srt" else "."
        self._is_vtt = form == "vtt"
        self._words: list[TimedWord] = []
        self._count = 0
        if self._is_vtt:
            file.write("WEBVTT\n\n")

    def write(self, part: TimedPiece | TimedWord | Pause) -> None:
        if not isinstance(part, TimedWord):
            return
        if self._words and self._is_complete(part):
            self._write_cue()
        self._words.append(part)

    def _is_complete(self, following: TimedWord) -> bool:
        first, last = self._words[0], self._words[-1]
        characters = sum(1 + len(word.word) for word in self._words) + len(following.word)
        return (
            ends_sentence(last.word)
            or characters > _MOST_CHARACTERS
            or following.end - first.start > _LONGEST_CUE_S
            or following.start - last.end > _LONGEST_GAP_S
        )

    def _write_cue(self) -> None:
        self._count += 1
        start, end = (self._clock(at) for at in (self._words[0].start, self._words[-1].end))
        text = " ".join(word.word for word in self._words)
        if self._is_vtt:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        number = "" if self._is_vtt else f"{self._count}\n"
        self._file.write(f"{number}{start} --> {end}\n{text}\n\n")
        self._file.flush()
        self._words.clear()

    def _clock(self, seconds: float) -> str:
        """`01:02:03,456`; WebVTT has a point for the comma."""
        milliseconds = round(1000 * seconds)
        minutes, rest = divmod(milliseconds, 60_000)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:02}:{minutes:02}:{rest // 1000:02}{self._decimal}{rest % 1000:03}"

    def close(self) -> None:
        if self._words:
            self._write_cue()
