"""On what a benchmark ran: the machine's name, versions, and the memory in use."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
from pathlib import Path

import torch

from moshi_agent._version import __version__


def machine_name(device: str) -> str:
    """Returns the processor and its cores; in front of them the GPU, where that is the device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"{_processor()}, {cores} cores"
    return f"{torch.cuda.get_device_name(device)}, {name}" if device.startswith("cuda") else name


def versions() -> dict[str, str]:
    """Lists the versions of what the metrics depend on."""
    return {
        "moshi_agent": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def resident_bytes() -> int:
    """Tells the memory of this process and those that it has started: now on Linux, elsewhere their peaks."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    try:
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return sum(pages) * resource.getpagesize()


def device_bytes(device: str) -> int | None:
    """Tells what is in use on a GPU, by whomever; None for other devices."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
