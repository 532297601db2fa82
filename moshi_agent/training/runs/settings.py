"""Reads the settings of a training: a TOML file becomes a frozen dataclass, or an error that names the key.

msgspec and cattrs do most of it. It is written here because every error names the key as the file has it and
says what is accepted, and because a table changes only the defaults that its field has, not its class's.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from moshi_agent.config import refuse_unknown_keys
from moshi_agent.errors import ConfigError

Settings = TypeVar("Settings")

_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def named(key: str, **field: Any) -> Any:
    """Makes a field whose key in a file is no name in Python, such as `from`."""
    return dataclasses.field(metadata={"key": key}, **field)


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """Reads settings from a TOML file. A table is a nested dataclass; what is not given keeps its default.

    Raises:
        ConfigError: the file cannot be read, has an unknown key, lacks one that is needed, or a value of
            another type or out of range.
    """
    try:
        return build_settings(parse_toml(read_text(path)), kind)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_text(path: Path) -> str:
    """Reads a file of settings. Raises ConfigError, which does not name it, where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows may begin a file with a mark
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"it is no text: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Parses a TOML text. Raises ConfigError where it is none."""
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"it is no TOML file: {error}") from error


def build_settings(values: Mapping[str, Any], kind: type[Settings], table: str = "") -> Settings:
    """Builds settings from what a TOML file holds. Raises ConfigError as `read_settings` does."""
    given = _given(values, kind, table, {})
    missing = [key for key, field in _fields(kind).items() if _is_needed(field) and field.name not in given]
    if missing:
        raise ConfigError(f"{table or 'the file'} lacks {', '.join(missing)}")
    return kind(**given)


def _given(
    values: Mapping[str, Any], kind: type[Any], table: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Values by the names of their fields. A nested table changes the default that its field has."""
    fields, hints = _fields(kind), get_type_hints(kind)
    refuse_unknown_keys(values, fields, table or "settings")
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = fields[key].name
        default = defaults.get(name, _default(fields[key]))
        given[name] = _value(value, hints[name], f"[{table}] {key}" if table else key, default)
    return given


def _value(value: Any, hint: Any, where: str, default: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _table(value, cast("type[Any]", hint), where, default)
    if origin in (Union, types.UnionType):
        kinds = [one for one in arguments if one is not type(None)]
        return _value(value, kinds[0], where, default)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r}; accepted: {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _list(value, arguments, where)
    return _scalar(value, hint, where)


def _table(value: Any, kind: type[Any], where: str, default: Any) -> Any:
    table = where.removeprefix("[").replace("] ", ".")
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r}; accepted: a table, [{table}]")
    values = cast("Mapping[str, Any]", value)
    if not isinstance(default, kind):
        return build_settings(values, kind, table)
    defaults = {field.name: getattr(default, field.name) for field in dataclasses.fields(kind)}
    return dataclasses.replace(default, **_given(values, kind, table, defaults))


def _list(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}={value!r}; accepted: a list")
    values = cast("list[Any]", value)
    kinds = [arguments[0]] * len(values) if arguments[-1] is ... else list(arguments)
    if len(values) != len(kinds):
        raise ConfigError(f"{where}={values!r}; accepted: a list of {len(kinds)}")
    return tuple(_value(one, kind, where, MISSING) for one, kind in zip(values, kinds, strict=True))


def _scalar(value: Any, kind: type[Any], where: str) -> Any:
    # To Python a truth value is a number, and a whole number is none of its floats.
    written = {Path: (str,), float: (float, int)}.get(kind, (kind,))
    if not isinstance(value, written) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}={value!r}; accepted: {_SCALARS[kind]}")
    if kind is Path:
        return Path(str(value)).expanduser()
    return float(value) if kind is float else value


def _fields(kind: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields that a file may set, by their keys in it."""
    return {field.metadata.get("key", field.name): field for field in dataclasses.fields(kind) if field.init}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def require_range(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Raises ConfigError, naming the value, unless it is at least `least` and at most `most`."""
    if not least <= value <= most:
        accepted = f"{least:g} or more" if most == float("inf") else f"{least:g} to {most:g}"
        raise ConfigError(f"{name}={value!r}; accepted: {accepted}")


def as_values(settings: Any) -> dict[str, Any]:
    """Writes settings as JSON takes them, by the keys of the file."""
    values: dict[str, Any] = {}
    for key, field in _fields(type(settings)).items():
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = as_values(value)
        values[key] = (
            str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        )
    return values


def flat_values(settings: Any) -> dict[str, Any]:
    """Writes settings without tables: `table.key` for each."""

    def pairs(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from pairs(cast("dict[str, Any]", value), f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(pairs(as_values(settings), ""))


def refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any], place: object) -> None:
    """Raises ConfigError naming each setting that is not as it was."""
    changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if changed:
        shown = ", ".join(f"{key}={now.get(key)!r} (it was {then.get(key)!r})" for key in changed)
        raise ConfigError(
            f"the run in {place} began with other settings: {shown}; go on with those, or elsewhere"
        )
