"""The checkpoints of a run: each appears whole or not at all, and the newest can be gone on from.

run_dir/checkpoints/checkpoint_000100/
    consolidated/   what others load, where the run exports it on the way
    training.pt     what the run goes on from; in the newest only
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from moshi_agent.errors import CheckpointError, OutputError
from moshi_agent.outputs import naming

_NAME = re.compile(r"checkpoint_(\d{6,})")
_STATE = "training.pt"


class RunCheckpoints:
    """Writes the checkpoints of a run, and finds the one to go on from.

    Args:
        run_dir: the run's folder.
        keep: how many of the newest stay; 0 is all.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        self.run_dir = run_dir
        self.folder = run_dir / "checkpoints"
        self._keep = keep

    def all(self) -> list[Path]:
        """Lists the whole ones, oldest first."""
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("checkpoint_*")]
        return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]

    def newest(self) -> Path | None:
        """Finds the one to go on from; None before the first."""
        return next((path for path in reversed(self.all()) if (path / _STATE).is_file()), None)

    def newest_state(self) -> dict[str, Any] | None:
        """Reads what the run goes on from; None before the first. Raises CheckpointError as `read_state`."""
        newest = self.newest()
        return None if newest is None else read_state(newest)

    def save(
        self, step: int, content: Mapping[str, Any], export: Callable[[Path], None] | None = None
    ) -> Path:
        """Writes a checkpoint, then lets older ones go.

        Args:
            content: what the run goes on from.
            export: writes what others load into a folder; None where nobody loads it before the end.

        Raises:
            OutputError: the disk is full, or the folder cannot be written; the checkpoints before it stay.
        """
        path = self.folder / f"checkpoint_{step:06d}"
        self._clear()
        with whole_folder(path) as part:
            if export is not None:
                (part / "consolidated").mkdir()
                export(part / "consolidated")
            _write_state(part / _STATE, content)
        self._let_go(path)
        return path

    def _clear(self) -> None:
        """Removes what a process that was killed has left."""
        for part in self.folder.glob(".checkpoint_*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def _let_go(self, newest: Path) -> None:
        older = [path for path in self.all() if path != newest]
        for path in older:
            (path / _STATE).unlink(missing_ok=True)
        for path in older[: len(older) - self._keep + 1] if self._keep else []:
            # Out of sight first: what is half removed is no checkpoint.
            hidden = path.with_name(f".{path.name}.part")
            shutil.rmtree(hidden, ignore_errors=True)
            os.replace(path, hidden)
            shutil.rmtree(hidden, ignore_errors=True)


def read_state(path: Path) -> dict[str, Any]:
    """Reads what a run goes on from, of one checkpoint. Raises CheckpointError where it cannot be read."""
    file = path / _STATE
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the library raises whatever reading a damaged archive brings
        raise CheckpointError(f"{file} cannot be read ({error})") from error


def _write_state(path: Path, content: Mapping[str, Any]) -> None:
    try:
        torch.save(dict(content), path)
    except (RuntimeError, OSError) as error:  # the library's own writer has no type for a full disk
        raise OutputError(f"cannot write {path}; the disk may be full ({error})") from error


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """Gives a temporary folder, and moves it to `path` when the block ends without an error.

    Raises:
        OutputError: it cannot be made, or moved.
    """
    part = path.with_name(f".{path.name}.part")
    with naming(path):
        part.mkdir(parents=True)
    try:
        yield part
        with naming(path):
            _flush(part)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(part, path)
            _flush_folder(path.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(part, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Has everything on the disk before the name is: a machine may lose power, too."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            _flush_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # a folder cannot be opened elsewhere
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
