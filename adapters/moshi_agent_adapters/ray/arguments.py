"""The options of a command as config files have them."""

from __future__ import annotations

from typing import Any


def command_line(arguments: dict[str, Any]) -> list[str]:
    """Returns the arguments as they stand in a command line.

    Args:
        arguments: the options without their dashes. One without a value is `true`; a list gives it several
            times.
    """
    words: list[str] = []
    for name, values in arguments.items():
        option = f"--{name.replace('_', '-')}"
        for value in values if isinstance(values, list) else [values]:
            is_flag = value is True or value == "true"
            words += [option] if is_flag else [] if value is False else [option, str(value)]
    return words
