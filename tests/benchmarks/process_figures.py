"""What a process takes, as Linux tells it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figures:
    """Of one process, now."""

    resident_mb: float
    threads: int
    descriptors: int


def figures_of(pid: int) -> Figures | None:
    """Returns them; None once the process is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        status = (folder / "status").read_text()
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    kilobytes, threads = (re.search(rf"{name}:\s+(\d+)", status) for name in ("VmRSS", "Threads"))
    if kilobytes is None or threads is None:  # a process that has ended, and nobody has asked how
        return None
    return Figures(int(kilobytes[1]) / 1024, int(threads[1]), descriptors)


def engine_of(pid: int) -> int | None:
    """The engine's process of a server: of those that it has begun, what is no tracker of resources."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None
