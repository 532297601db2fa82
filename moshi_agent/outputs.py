"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from moshi_agent.errors import OutputError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Generator[Path]:
    """Gives a temporary path beside `path`, and moves it there when the block ends without an error.

    After an error or an interruption nothing is left, and a file that was at `path` before is untouched.

    Raises:
        OutputError: `path` cannot be written, which already shows on entering.
    """
    with naming(path):
        target = Path(path).resolve()
        _check_writable(target)
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
        temporary.touch(exist_ok=False)
    try:
        yield temporary
        with naming(path):
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Generator[None]:
    """Turns what the system says of a failed write into an OutputError that names `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _check_writable(target: Path) -> None:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder, and a file is needed")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write {target}: it is a device or a pipe, and a plain file is needed")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.parent}")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise OutputError(f"cannot write {target}: no permission")
