"""`examples/pipecat_bot.py` as a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "pipecat_bot.py"
# What whoever runs the tests may have set for bots of their own.
SETTINGS = ("TWILIO_", "TELNYX_", "PLIVO_", "PIPECAT_", "MOSHI_")


@contextmanager
def running_bot(folder: Path, *options: str, calls: int) -> Iterator[int]:
    """Starts the bot for so many calls at once; gives its port. Its log is in the folder.

    It has no keys of a provider, and so calls no provider's API.
    """
    log = folder / "bot.log"
    command = [sys.executable, str(EXAMPLE), "--port", "0", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    environment |= {"OMP_NUM_THREADS": "1", "MOSHI_CALLS": str(calls)}
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder
        ) as process,
    ):
        try:
            yield _port(process, log)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """As it is told once the bot listens."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"Uvicorn running on http://\S+?:(\d+) ", log.read_text(errors="replace")):
            return int(found[1])
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace"))
