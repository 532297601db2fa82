"""A file appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from moshi_agent.errors import OutputError
from moshi_agent.outputs import whole_file


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "answer.json"
    with whole_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["answer.json"]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    with whole_file(tmp_path / "link.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with whole_file(tmp_path / "answer.json"):
        pass
    assert (tmp_path / "answer.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_error_in_the_block_is_passed_on_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "answer.json"):
        raise FileNotFoundError("of something else")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_file_system_refuses_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), whole_file(tmp_path / ("a" * 300)):
        pass
    assert list(tmp_path.iterdir()) == []
