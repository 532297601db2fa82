"""How late the machine itself is: a noisy machine is not to be taken for a slow engine."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Self

from moshi_agent.cli.call_metrics import Percentiles, percentiles_ms

# A process of its own, that nothing of ours holds up: it sleeps, works for a moment, and tells how much
# longer that took than it should have. It works, too: a busy machine wakes who sleeps, and then stops him.
_WATCH = """
import time
print(flush=True)
while True:
    began, used = time.perf_counter(), time.process_time()
    time.sleep(0.04)
    while time.process_time() - used < 0.001:
        pass
    late = time.perf_counter() - began - 0.04 - (time.process_time() - used)
    print(late, flush=True)
"""


class TimerJitter:
    """Watches the machine's clock from its making until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _WATCH], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun

    def close(self) -> Percentiles:
        """Ends it, and returns by how many milliseconds the machine was late."""
        self._process.terminate()
        told, _ = self._process.communicate()
        # The last line may have been cut off.
        return percentiles_ms([max(0.0, float(line)) for line in told.splitlines()[:-1]])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
