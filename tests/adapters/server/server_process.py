"""`moshi-agent serve` as a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_ONE_ADDRESS = ("--calls-per-address", "32")  # here all callers have one


@dataclass(frozen=True)
class ServeProcess:
    """The command, as it runs."""

    process: subprocess.Popen[str]
    url: str

    @property
    def websocket(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(*options: str) -> Iterator[ServeProcess]:
    """Begins to serve; gives the address that the command prints once it listens."""
    command = [sys.executable, "-m", "moshi_agent", "serve", "--port", "0", *_ONE_ADDRESS, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            yield ServeProcess(process, address_of(process))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """The address that the command says it serves at; fails with all that it said where it says none."""
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        found = re.search(r" is at (https?://\S+?),", line)
        if found:
            return found[1]
    raise AssertionError("".join(seen))
