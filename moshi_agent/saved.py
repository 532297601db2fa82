"""Reads back what a `save` method has given, after a stranger may have had it in his hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

from moshi_agent.errors import InputError

_LARGEST = 2**53  # of any number: floats count so far one by one

Record = TypeVar("Record")


def saved_value(value: Any, kind: type, where: str) -> Any:
    """Returns a value of one kind: `bool`, `int`, `float` or `str`; numbers finite and of a sensible size.

    Raises:
        InputError: another value; `where` says which.
    """
    accepted = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if fits and kind in (int, float):
        fits = abs(value) <= _LARGEST  # neither of infinity nor of what is no number
    if not fits:
        raise InputError(
            f"damaged: {where} is {str(value)[:40]!r}, and no {kind.__name__} of a sensible size"
        )
    return value


def saved_record(cls: type[Record], values: Mapping[str, Any]) -> Record:
    """Makes a dataclass whose fields are plain values, or None where they may be.

    Raises:
        InputError: a value of another kind than its field; a field that is missing or unknown.
    """
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]  # pyright: ignore[reportArgumentType]
    if not isinstance(values, Mapping) or set(values) != set(names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"damaged: {', '.join(names)} are needed")
    for name in names:
        kinds = get_args(hints[name]) or (hints[name],)
        if values[name] is not None or type(None) not in kinds:
            saved_value(values[name], kinds[0], name)
    return cls(**values)
