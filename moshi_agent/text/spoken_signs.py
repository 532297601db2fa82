"""Writes out, in English words, signs and digits that a tokenizer has no pieces for: "5 %" as "5 percent"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from moshi_agent.text.number_words import NUMBER, number_words

IsKnown = Callable[[str], bool]
_DASH = "\u2013"  # between two numbers: from one to the other


class _Unit(NamedTuple):
    """What a number is counted in."""

    one: str
    many: str
    one_part: str = ""  # a hundredth of it
    parts: str = ""


_CURRENCIES = {
    "$": _Unit("dollar", "dollars", "cent", "cents"),
    "\u20ac": _Unit("euro", "euros", "cent", "cents"),
    "\u00a3": _Unit("pound", "pounds", "penny", "pence"),
    "\u00a5": _Unit("yen", "yen"),
    "\u20b9": _Unit("rupee", "rupees", "paisa", "paise"),
    "\u20a9": _Unit("won", "won"),
    "\u20bf": _Unit("bitcoin", "bitcoins"),
    "\u00a2": _Unit("cent", "cents"),
}
_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
_DEGREES = {"C": " Celsius", "F": " Fahrenheit", "": ""}
_FRACTIONS = {"\u00bd": "a half", "\u00bc": "one quarter", "\u00be": "three quarters"}
_POWERS = {"\u00b2": "squared", "\u00b3": "cubed"}
_SIGNS = {
    "%": "percent",
    "\u2030": "per thousand",
    "\u00b0": "degrees",
    "&": "and",
    "+": "plus",
    "\u2212": "minus",
    "\u00b1": "plus or minus",
    "\u00d7": "times",
    "\u00f7": "divided by",
    "=": "equals",
    "\u2260": "is not",
    "\u2248": "about",
    "<": "less than",
    ">": "more than",
    "\u2264": "at most",
    "\u2265": "at least",
    "@": "at",
    "\u00a7": "section",
    "\u2116": "number",
}
_CURRENCY = f"[{re.escape(''.join(_CURRENCIES))}]"
_SCALE = r"(?:\s?(?P<scale>million|billion|trillion)\b|(?P<short>[kKmMbB]|bn|tn)\b)?"
_BEFORE = re.compile(rf"(?P<sign>{_CURRENCY})\s?(?P<number>{NUMBER}){_SCALE}")
_BEHIND = re.compile(rf"(?P<number>{NUMBER}){_SCALE}\s?(?P<sign>{_CURRENCY})")
_ALONE = re.compile(rf"(?<!\S)(?P<sign>{_CURRENCY})(?!\S)")
_TEMPERATURE = re.compile(rf"(?P<number>{NUMBER})\s?(?:\u00b0(?:\s?(?P<scale>[CF])\b)?)")
_NUMBERED = re.compile(rf"#\s?(?={NUMBER})")
_SECTION = re.compile(rf"(?P<signs>\u00a7{{1,2}})\s?(?={NUMBER})")
_RANGE = re.compile(rf"(?<=\d)\s?{_DASH}\s?(?={_CURRENCY}?\d)")
_MINUS = re.compile(r"(?<!\S)-(?=\d)")
_ABOUT = re.compile(r"(?<!\S)~\s?(?=\d)")
_TIMES = re.compile(r"(?<=\d)\s?\*\s?(?=\d)")
_FRACTION = re.compile(rf"(?P<number>\d?)(?P<sign>[{''.join(_FRACTIONS)}])")
_POWER = re.compile(rf"(?<=\w)[{''.join(_POWERS)}](?!\w)")
_SPELLED = re.compile(NUMBER + r"(?:(?:st|nd|rd|th)\b)?")
_BEFORE_STOP = re.compile(r"(?<=\w) +(?=[.,!?;:](?:\s|$))")  # that writing out has made
_DECORATION = re.compile(r"([^\w\s.])\1{2,}")  # a line of signs, which nobody reads aloud


def write_out(text: str, is_known: IsKnown) -> str:
    """Returns the text with its signs and digits as words, where the tokenizer has no pieces for them.

    Signs of currencies, percent, degrees, arithmetic, numbers and sections are written out, with the singular
    and the plural as the number wants them. What is known, and every other sign, stays as it is.

    Args:
        is_known: whether a character can stand in the text.
    """
    unknown = {one for one in set(text) if not (one.isspace() or one.isalpha() or is_known(one))}
    if not unknown:
        return text
    for sign in unknown & set("\u2103\u2109"):
        text = text.replace(sign, unicodedata.normalize("NFKC", sign))
        unknown |= {"\u00b0"} if not is_known("\u00b0") else set()
    text = _DECORATION.sub(lambda found: " " if found[1] in unknown else found[0], text)
    for signs, pattern, words in _RULES:
        if signs & unknown:
            text = pattern.sub(lambda found, words=words: _in_words(found, unknown, words), text)
    text = "".join(_sign(one) if one in unknown else one for one in text)
    if any(one.isdecimal() and not is_known(one) for one in set(text)):
        text = _SPELLED.sub(lambda found: f" {number_words(found[0])} ", text)
    return _BEFORE_STOP.sub("", text)


def _in_words(found: re.Match[str], unknown: set[str], words: Callable[[re.Match[str]], str]) -> str:
    """What was found, in words, unless its sign is one that the tokenizer knows."""
    sign = found.groupdict().get("sign")
    return found[0] if sign is not None and sign not in unknown else words(found)


def _sign(sign: str) -> str:
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))  # digits of all scripts; an own digit stays
    return f" {_SIGNS[sign]} " if sign in _SIGNS else sign


def _amount(found: re.Match[str]) -> str:
    unit, number = _CURRENCIES[found["sign"]], found["number"]
    scale = found["scale"] or _SCALES.get((found["short"] or "").lower())
    whole, point, hundredths = number.rpartition(".")
    if scale or not unit.parts or not point or len(hundredths) != 2:
        return f" {number} {scale or ''} {unit.one if number == '1' and not scale else unit.many} "
    parts = int(hundredths)
    said = [f"{whole} {unit.one if whole == '1' else unit.many}"] if whole.strip("0") or not parts else []
    said += [f"{parts} {unit.one_part if parts == 1 else unit.parts}"] if parts else []
    return f" {' and '.join(said)} "


def _degrees(found: re.Match[str]) -> str:
    number = found["number"]
    return f" {number} degree{'' if number == '1' else 's'}{_DEGREES[found['scale'] or '']} "


def _fraction(found: re.Match[str]) -> str:
    """2½ is two and a half, ½ half of what follows."""
    fraction = _FRACTIONS[found["sign"]]
    return f"{found['number']} and {fraction} " if found["number"] else f" {fraction.removeprefix('a ')} "


# The characters of which one must be unknown; what is looked for; what it becomes.
_RULES: tuple[tuple[set[str], re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    ({_DASH}, _RANGE, lambda found: " to "),
    ({"-"}, _MINUS, lambda found: "minus "),
    ({"~"}, _ABOUT, lambda found: "about "),
    ({"*"}, _TIMES, lambda found: " times "),
    (set(_FRACTIONS), _FRACTION, _fraction),
    (set(_POWERS), _POWER, lambda found: f" {_POWERS[found[0]]} "),
    (set(_CURRENCIES), _BEFORE, _amount),
    (set(_CURRENCIES), _BEHIND, _amount),
    (set(_CURRENCIES), _ALONE, lambda found: _CURRENCIES[found["sign"]].many),
    ({"\u00b0"}, _TEMPERATURE, _degrees),
    ({"#"}, _NUMBERED, lambda found: " number "),
    ({"\u00a7"}, _SECTION, lambda found: " sections " if len(found["signs"]) > 1 else " section "),
)
