"""Words with their times in the benchmark's form: `{"text": ..., "chunks": [{"text", "timestamp"}, ...]}`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from moshi_agent.errors import DataError
from moshi_agent.outputs import naming, whole_file

# Who has written the words down: the model's own text stream, or a recogniser that listened. The benchmark's
# scripts read what a recogniser wrote.
WordSource = Literal["recogniser", "monologue"]

_WANTED = '{"text": "hello", "chunks": [{"text": "hello", "timestamp": [0.4, 0.8]}]}'


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """Holds a word and when it is said, in seconds. Some recognisers leave out the end of the last one."""

    text: str
    start_s: float
    end_s: float | None

    @property
    def last_s(self) -> float:
        """Returns its end, or its start where no end is known."""
        return self.start_s if self.end_s is None else self.end_s


def words_path(folder: Path, sound: str, source: WordSource) -> Path:
    """Names the file with the words of `output`, say: `output.json`, or `output_monologue.json`."""
    return folder / (f"{sound}.json" if source == "recogniser" else f"{sound}_monologue.json")


def read_words(path: Path) -> list[SpokenWord]:
    """Reads the words of a file, in its order. Words without a start are left out.

    Raises:
        DataError: it is missing, or of another form.
    """
    content = read_json(path)
    fields = cast("dict[str, object]", content) if isinstance(content, dict) else {}
    chunks = fields.get("chunks")
    if not isinstance(chunks, list):
        raise DataError(f"{path} has no words; wanted is {_WANTED}")
    words = [_word(chunk, f"{path}, chunk {n}") for n, chunk in enumerate(cast("list[object]", chunks), 1)]
    return [word for word in words if word is not None]


def write_words(path: Path, words: Sequence[SpokenWord]) -> None:
    """Writes the file whole or not at all. Raises OutputError where it cannot be written."""
    chunks = [{"text": word.text, "timestamp": [word.start_s, word.end_s]} for word in words]
    content = {"text": text_of_words(words), "chunks": chunks}
    with whole_file(path) as temporary, naming(path):
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def text_of_words(words: Iterable[SpokenWord]) -> str:
    """Joins the words with spaces."""
    return " ".join(word.text.strip() for word in words)


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises DataError where it is missing or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def _word(chunk: object, place: str) -> SpokenWord | None:
    match chunk:
        case {"text": str(text), "timestamp": [int() | float() as start_s, int() | float() as end_s]}:
            return SpokenWord(text, float(start_s), float(end_s))
        case {"text": str(text), "timestamp": [int() | float() as start_s, None]}:
            return SpokenWord(text, float(start_s), None)
        case {"text": str(), "timestamp": [None, *_]}:
            return None
        case _:
            raise DataError(f"{place}: {chunk!r:.80}; wanted is {_WANTED}")
