"""Settings from a file: complete, of the right types, or an error that names the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from moshi_agent import ConfigError
from moshi_agent.training.runs.settings import as_values, flat_values, named, read_settings, require_range


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float = 0.5
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        require_range("share", self.share, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Outer:
    folder: Path
    start: str | None = named("from", default=None)
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.1, 0.2)
    fast: bool = False
    count: int = 3
    inner: Inner = field(default_factory=lambda: Inner(sizes=(7,)))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_what_is_said_is_taken_and_the_rest_keeps_its_default(tmp_path: Path) -> None:
    """A table changes the default of its field, not that of its class."""
    text = 'folder = "a/b"\nfrom = "tiny"\npair = [1, 2.5]\n[inner]\nshare = 1\n'
    settings = read_settings(written(tmp_path, text), Outer)
    assert settings == Outer(
        folder=Path("a/b"), start="tiny", pair=(1.0, 2.5), inner=Inner(share=1.0, sizes=(7,))
    )
    assert isinstance(settings.inner.share, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks folder"),
        ('folder = "a"\nsteps = 3', "unknown key 'steps'"),
        ('folder = "a"\n[inner]\nshares = 3', "inner: unknown key 'shares'"),
        ('folder = "a"\ncount = 2.5', "count=2.5; accepted: a whole number"),
        ('folder = "a"\ncount = true', "count=True; accepted: a whole number"),
        ('folder = "a"\nfast = 1', "fast=1; accepted: true or false"),
        ('folder = "a"\nkind = "c"', "kind='c'; accepted: 'a', 'b'"),
        ('folder = "a"\npair = [1.0]', "a list of 2"),
        ('folder = "a"\npair = 1.0', "pair=1.0; accepted: a list"),
        ('folder = "a"\ninner = 1', r"inner=1; accepted: a table, \[inner\]"),
        ('folder = "a"\n[inner]\nshare = "x"', r"\[inner\] share='x'; accepted: a number"),
        ('folder = "a"\n[inner]\nshare = 2', "share=2.0; accepted: 0 to 1"),
        ("folder = ", "no TOML file"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        read_settings(path, Outer)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / "none.toml", Outer)


def test_settings_are_written_by_the_keys_of_the_file() -> None:
    settings = Outer(folder=Path("a"), start="tiny")
    values = as_values(settings)
    assert values["from"] == "tiny" and values["folder"] == "a"
    assert values["inner"] == {"share": 0.5, "sizes": [7]}
    assert flat_values(settings)["inner.share"] == 0.5
