"""What was said and what a recogniser wrote down, as words that can be compared.

Recognisers write figures where words were said: "10:30", "$12.50", "80", "4th".
"""

from __future__ import annotations

import difflib
import re
from typing import cast

from moshi_agent.training.tiny.number_words import number

_MONEY = re.compile(r"([$€])\s?(\d+)(?:\.(\d\d))?")
_CURRENCIES = {"$": ("dollar", "dollars"), "€": ("euro", "euros")}
_TIME = re.compile(r"\b(\d{1,2})[:.](\d\d)\b")
_SUM = re.compile(r"(?<=\d)\s*([+=-])\s*(?=\d)")
_SIGNS = {"+": " plus ", "=": " is ", "-": " minus "}
_SPELLED = re.compile(r"\b(?:[A-Z]-)+[A-Z]\b|\b[A-Z]{3,}\b")
_CONTRACTIONS = {"i'm": "i am", "it's": "it is", "that's": "that is", "can't": "cannot", "don't": "do not"}
RIGHT = 0.75  # a text counts as understood from this similarity on


def spoken_words(text: str) -> list[str]:
    """The words of `text` as they are said, in lower case."""
    text = _MONEY.sub(_money, text.replace("\u2019", "'"))
    text = _TIME.sub(lambda time: f"{time[1]} {time[2].removeprefix('0') or chr(39)}", text)
    text = _SUM.sub(lambda sign: _SIGNS[sign[1]], text)
    text = _SPELLED.sub(lambda word: " ".join(word[0].replace("-", "")), text)
    text = re.sub(r"\d+", lambda digits: f" {_figures(digits[0])} ", text)
    found = cast("list[str]", re.findall(r"[a-z']+", text.lower()))
    words = [_CONTRACTIONS.get(word, word) for word in found]
    return " ".join(words).replace("'", "").split()


def similarity(said: str, heard: str) -> float:
    """How much of the words of both is the same and in the same order, 0 to 1."""
    first, second = spoken_words(said), spoken_words(heard)
    if not first and not second:
        return 1.0
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def _money(found: re.Match[str]) -> str:
    one, several = _CURRENCIES[found[1]]
    units, hundredths = int(found[2]), int(found[3] or 0)
    whole = f"{units} {one if units == 1 else several}"
    return f"{whole} and {hundredths} cents" if hundredths else whole


def _figures(digits: str) -> str:
    """A whole number in words: pairs from the right, as a time without its colon is said."""
    pairs = [digits[max(end - 2, 0) : end] for end in range(len(digits), 0, -2)]
    return " ".join(number(int(pair)) for pair in reversed(pairs))
