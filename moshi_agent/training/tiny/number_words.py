"""Numbers, times of the day and sums of money as they are said."""

from __future__ import annotations

from moshi_agent.text.number_words import number_words


def number(value: int) -> str:
    """A whole number in words."""
    return number_words(str(value))


def clock(hour: int, minute: int) -> str:
    """A time of the day in words, hour 1 to 12; the minute is a multiple of five."""
    past = {0: "{} o'clock", 15: "a quarter past {}", 30: "half past {}"}
    if minute in past:
        return past[minute].format(number(hour))
    if minute == 45:
        return f"a quarter to {number(hour % 12 + 1)}"
    return f"{number(hour)} oh five" if minute == 5 else f"{number(hour)} {number(minute)}"


def amount(units: int, hundredths: int, currency: str = "dollar") -> str:
    """A sum of money in words."""
    whole = f"{number(units)} {currency}{'s' if units != 1 else ''}"
    if not hundredths:
        return whole
    cents = f"{number(hundredths)} cents"
    return cents if not units else f"{whole} and {cents}"
