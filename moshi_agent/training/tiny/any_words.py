"""Rows of words from a dictionary: they mean nothing, and have every sound beside every other.

The dictionary is that of the package `pocketsphinx`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from moshi_agent.errors import ConfigError

DICTIONARY = Path("model") / "en-us" / "cmudict-en-us.dict"
FEWEST, MOST = 3, 7  # words of a row
SHORTEST, LONGEST = 3, 10  # letters of a word
BETWEEN = ("the", "and", "of", "to", "a", "in", "is", "with", "for", "was", "on", "at")


def rows_of_words(count: int, seed: int) -> list[str]:
    """`count` rows, each written as a sentence. Raises ConfigError where the package is missing."""
    words, rng = _words(), np.random.default_rng(seed)
    rows: list[str] = []
    for _ in range(count):
        row: list[str] = []
        for _ in range(int(rng.integers(FEWEST, MOST + 1))):
            row.append(words[int(rng.integers(len(words)))])
            if rng.random() < 0.4:
                row.append(BETWEEN[int(rng.integers(len(BETWEEN)))])
        mark = ".?!"[int(rng.choice(3, p=(0.8, 0.15, 0.05)))]
        if len(row) > 4 and rng.random() < 0.4:
            row[2] += ","
        rows.append(" ".join(row).capitalize() + mark)
    return rows


def _words() -> list[str]:
    found = find_spec("pocketsphinx")
    if found is None or found.origin is None:
        raise ConfigError("the dictionary is missing; install pocketsphinx")
    lines = (Path(found.origin).parent / DICTIONARY).read_text().splitlines()
    words = (line.split(" ", 1)[0] for line in lines)
    return [word for word in words if word.isalpha() and SHORTEST <= len(word) <= LONGEST]
