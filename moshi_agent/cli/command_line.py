"""How the command ends: an error is one line, an interruption is quiet, and both have their exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from moshi_agent.errors import MoshiAgentError

_EXIT_ERROR = 1
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_EXIT_TERMINATED = 143


class SingleCommand(click.Command):
    """Ends with errors of one line that starts with `error:`.

    Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.
    """

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        _open_missing_streams()
        try:
            with _terminated_as_exit():
                code = super().main(*args, **kwargs)
            _flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            _fail(error.format_message() + hint, error.exit_code)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except MoshiAgentError as error:
            _fail(str(error), _EXIT_ERROR)
        except click.Abort:
            sys.exit(_EXIT_INTERRUPTED)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which is not imported for this
                raise
            _fail(
                "the device has no memory left for this; accepted: less at once, another device", _EXIT_ERROR
            )
        except OSError as error:
            if not _is_from_output():
                raise
            _lose_output()
            if isinstance(error, BrokenPipeError):  # `moshi-agent ... | head`: nobody wants the rest
                sys.exit(_EXIT_ERROR)
            _fail(f"cannot write to the standard output: {error.strerror}", _EXIT_ERROR)
        # Click hands back the code of an early exit (--help, --version), and else what the command returned.
        sys.exit(code if isinstance(code, int) else 0)


class CommandLine(SingleCommand, click.Group):
    """Ends a group as `SingleCommand` ends, whichever of its sub-commands ran."""


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo("error: " + " ".join(message.splitlines()), err=True)
    sys.exit(exit_code)


def _open_missing_streams() -> None:
    """Gives a program without a console, or with a stream closed by its shell, one that takes everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process is
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name may be any bytes, and is printed so


def _flush() -> None:
    """Writes out what was printed, while an error of it can still be told."""
    sys.stdout.flush()


def _is_from_output() -> bool:
    """Whether it is the standard output that cannot be written: errors of files name them."""
    try:
        sys.stdout.write("")
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _lose_output() -> None:
    """Has the rest of the standard output go nowhere: the interpreter would fail once more at its end."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextmanager
def _terminated_as_exit() -> Generator[None]:
    """Lets the command clean up after a SIGTERM, which by itself would end it where it stands."""

    def leave(signal_number: int, frame: FrameType | None) -> None:
        sys.exit(_EXIT_TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread, where signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
