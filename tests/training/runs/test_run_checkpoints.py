"""The checkpoints of a run are whole, and never fewer than there were."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from moshi_agent.errors import CheckpointError, OutputError
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints, read_state


def _export(folder: Path) -> None:
    (folder / "weights").write_text("weights")


def _content(step: int, numbers: int = 4) -> dict[str, object]:
    return {"step": step, "weights": {"a": torch.full((numbers,), float(step))}}


def _save(checkpoints: RunCheckpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, _content(step), _export)


def _names(checkpoints: RunCheckpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path, keep=3)
    assert checkpoints.newest() is None
    path = checkpoints.save(7, _content(7), _export)
    assert path == checkpoints.newest() == tmp_path / "checkpoints" / "checkpoint_000007"
    state = read_state(path)
    assert state["step"] == 7
    assert torch.equal(state["weights"]["a"], torch.full((4,), 7.0))
    assert (path / "consolidated" / "weights").read_text() == "weights"


def test_the_newest_few_are_kept_and_one_can_be_gone_on_from(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path, keep=2)
    _save(checkpoints, 1, 2, 3, 10)
    assert _names(checkpoints) == ["checkpoint_000003", "checkpoint_000010"]
    assert [path.parent.name for path in checkpoints.folder.glob("*/training.pt")] == ["checkpoint_000010"]


def test_all_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path, keep=0)
    _save(checkpoints, 1, 2, 3, 4, 1_000_000)
    assert len(checkpoints.all()) == 5
    assert checkpoints.all()[-1].name == "checkpoint_1000000"


def test_a_checkpoint_is_written_anew_over_one_of_the_same_step(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path, keep=2)
    _save(checkpoints, 1, 1)
    assert _names(checkpoints) == ["checkpoint_000001"]


@contextmanager
def _files_of_at_most(size: int) -> Generator[None]:
    """The system refuses to write more of a file, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """Nothing else is left, and with room again the next one is written."""
    checkpoints = RunCheckpoints(tmp_path, keep=2)
    _save(checkpoints, 1)
    with _files_of_at_most(100_000), pytest.raises(OutputError, match=r"cannot write .*training\.pt"):
        checkpoints.save(2, _content(2, numbers=1_000_000), _export)
    assert _names(checkpoints) == ["checkpoint_000001"]
    assert read_state(checkpoints.all()[0])["step"] == 1
    _save(checkpoints, 3)
    assert _names(checkpoints) == ["checkpoint_000001", "checkpoint_000003"]


def test_what_fails_to_be_exported_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        _export(folder)
        raise OutputError("no room")

    checkpoints = RunCheckpoints(tmp_path, keep=1)
    _save(checkpoints, 1)
    with pytest.raises(OutputError, match="no room"):
        checkpoints.save(2, _content(2), fails)
    assert _names(checkpoints) == ["checkpoint_000001"]


def test_what_a_killed_process_has_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    """In the middle of writing one, and of removing another."""
    checkpoints = RunCheckpoints(tmp_path, keep=1)
    _save(checkpoints, 1)
    for name in (".checkpoint_000002.part", ".checkpoint_000000.part"):
        (checkpoints.folder / name / "consolidated").mkdir(parents=True)
        (checkpoints.folder / name / "training.pt").write_text("half")
    assert [path.name for path in checkpoints.all()] == ["checkpoint_000001"]
    _save(checkpoints, 3)
    assert _names(checkpoints) == ["checkpoint_000003"]


def test_a_damaged_one_is_an_error_by_name(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path, keep=1)
    _save(checkpoints, 1)
    file = checkpoints.all()[0] / "training.pt"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"training\.pt cannot be read"):
        read_state(checkpoints.all()[0])
