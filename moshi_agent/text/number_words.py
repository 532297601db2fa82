"""Spells numbers out in English words."""

from __future__ import annotations

# As people write one: 5, 3.50, 1,000; never a part of one. Not with `*+`: Python 3.11.2 takes the comma
# behind a number for a part of it (gh-106052).
NUMBER = r"(?<!\d)(?<!\d[.,])\d+(?:[.,]\d+)*(?![.,]?\d)"
_MOST_DIGITS = 15  # of a number that is read as one; a longer one is read digit by digit
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ("", "thousand", "million", "billion", "trillion")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def number_words(number: str) -> str:
    """Spells a number out: "1,250" as "one thousand two hundred fifty", "3.5" as "three point five".

    Args:
        number: as `NUMBER` describes it, with or without the ending of an ordinal. Commas that part groups
            of three digits are left out. A number with a zero before it, or of more than 15 digits, is read
            digit by digit.
    """
    digits = number.rstrip("stndrh")
    groups = digits.split(",")
    if "." in digits or all(len(group) == 3 for group in groups[1:]):
        digits = "".join(groups)
    parts = digits.replace(",", ".").split(".")
    words = [_whole(parts[0])] + ["point " + _one_by_one(part) for part in parts[1:]]
    return " ".join([*words[:-1], _ordinal(words[-1]) if number[-1].isalpha() else words[-1]])


def _ordinal(words: str) -> str:
    before, _, last = words.rpartition(" ")
    if last not in _ORDINALS:
        last = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return f"{before} {_ORDINALS.get(last, last)}".strip()


def _whole(digits: str) -> str:
    if len(digits) > _MOST_DIGITS or (digits[0] == "0" and len(digits) > 1):
        return _one_by_one(digits)
    value, words = int(digits), []
    for scale in _SCALES:
        value, group = divmod(value, 1000)
        words = [*_below_thousand(group), *([scale] if scale and group else []), *words]
    return " ".join(words) or _UNITS[0]


def _below_thousand(value: int) -> list[str]:
    hundreds, rest = divmod(value, 100)
    words = [_UNITS[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10 - 2])
        rest %= 10
    return [*words, _UNITS[rest]] if rest else words


def _one_by_one(digits: str) -> str:
    return " ".join(_UNITS[int(digit)] for digit in digits)
