"""What is said in a conversation and when: the JSON file beside its audio."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from moshi_agent.errors import DataError
from moshi_agent.outputs import naming, whole_file

MAIN_SPEAKER = "SPEAKER_MAIN"
# Recognisers work in windows, and round: the last word may seem to end a little after its file.
END_TOLERANCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Alignment:
    """Holds a word, its time in seconds from the start of the file, and who says it."""

    word: str
    start_s: float
    end_s: float
    speaker: str = MAIN_SPEAKER


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Holds the words of a conversation, in order of their start, and what the model is conditioned on.

    In one that `greets`, the model has been asked to speak first (see `Conversation`). Kyutai's package does
    not know this key.
    """

    alignments: tuple[Alignment, ...]
    text_conditions: dict[str, str] | None = field(default=None)
    greets: bool = False


def sidecar_path(audio: Path) -> Path:
    """Tells where the words of an audio file are."""
    return audio.with_suffix(".json")


def read_sidecar(path: Path, duration_s: float = math.inf) -> Sidecar:
    """Reads the words of a file that lasts `duration_s`.

    Raises:
        DataError: it is missing, of another form, or has a word outside its audio.
    """
    try:
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"there is no {path} with the words; `moshi-agent annotate` makes it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    fields = cast("dict[str, object]", content) if isinstance(content, dict) else {}
    rows = fields.get("alignments")
    if not isinstance(rows, list):
        raise DataError(
            f'{path}: wanted is {{"alignments": [["word", [start, end], "{MAIN_SPEAKER}"], ...]}}'
        )
    alignments = [
        _alignment(row, duration_s, f"{path}, alignment {number}")
        for number, row in enumerate(cast("list[object]", rows), 1)
    ]
    alignments.sort(key=lambda alignment: alignment.start_s)
    greets = fields.get("greets", False)
    if not isinstance(greets, bool):
        raise DataError(f"{path}: greets is {greets!r:.60}; wanted is true or false")
    return Sidecar(tuple(alignments), _conditions(fields.get("text_conditions"), path), greets)


def write_sidecar(
    path: Path,
    alignments: Sequence[Alignment],
    text_conditions: dict[str, str] | None = None,
    *,
    greets: bool = False,
) -> None:
    """Writes the file whole or not at all. Raises OutputError where it cannot be written."""
    rows = [[word.word, [round(word.start_s, 3), round(word.end_s, 3)], word.speaker] for word in alignments]
    content: dict[str, object] = {"alignments": rows}
    if text_conditions is not None:
        content["text_conditions"] = text_conditions
    if greets:
        content["greets"] = True
    with whole_file(path) as temporary, naming(path):
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _alignment(row: object, duration_s: float, place: str) -> Alignment:
    match row:
        case [str(word), [int() | float() as start_s, int() | float() as end_s], str(speaker)]:
            pass
        case _:
            raise DataError(f'{place}: {row!r:.80}; wanted is ["word", [start, end], "{MAIN_SPEAKER}"]')
    if not (0 <= start_s < duration_s and end_s <= duration_s + END_TOLERANCE_S):
        raise DataError(
            f"{place}: {word!r:.60} from {start_s!r:.20} to {end_s!r:.20} s is outside its file of "
            f"{duration_s:.2f} s"
        )
    return Alignment(word, float(start_s), float(end_s), speaker)


def _conditions(found: object, path: Path) -> dict[str, str] | None:
    if found is None:
        return None
    pairs = cast("dict[object, object]", found) if isinstance(found, dict) else {None: None}
    if not all(isinstance(value, str) for pair in pairs.items() for value in pair):
        raise DataError(f"{path}: text_conditions is {found!r:.60}; wanted are names and texts")
    return cast("dict[str, str]", pairs)
