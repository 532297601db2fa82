"""How the command ends: an error is one line, an interruption is quiet, and both have their exit code."""

from __future__ import annotations

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
        try:
            with _terminated_as_exit():
                code = super().main(*args, **kwargs)
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
        # Click hands back the code of an early exit (--help, --version), and else what the command returned.
        sys.exit(code if isinstance(code, int) else 0)


class CommandLine(SingleCommand, click.Group):
    """Ends a group as `SingleCommand` ends, whichever of its sub-commands ran."""


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo("error: " + " ".join(message.splitlines()), err=True)
    sys.exit(exit_code)


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
