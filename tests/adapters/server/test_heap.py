"""One heap of the C library for all threads of a server, and collections of cycles in time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import re, sys, threading
from moshi_agent_adapters.server.heap import share_one_heap

def mapped_mb():
    return int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

if sys.argv[1] == "one":
    assert share_one_heap()
before, barrier, kept = mapped_mb(), threading.Barrier(9), []

def work():
    kept.append([bytes(2000) for _ in range(100)])
    barrier.wait()  # all have a heap by now
    barrier.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
barrier.wait()
print(mapped_mb() - before)
barrier.wait()
"""

COLLECTIONS = """
import contextlib, gc, sys
from moshi_agent_adapters.server.heap import passing_over_what_stays

modules = [[] for _ in range(300_000)]
gc.collect()
with passing_over_what_stays() if sys.argv[1] == "passed over" else contextlib.nullcontext():
    before = gc.get_stats()[2]["collections"]
    calls = [[] for _ in range(40_000)]  # that came, and are not over
    print(gc.get_stats()[2]["collections"] - before)
assert gc.get_freeze_count() == 0
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_have_no_heaps_of_their_own() -> None:
    """A heap of glibc takes 64 MB of addresses at the least, a thread's stack 8."""
    mapped = {}
    for heaps in ("one", "many"):
        command = [sys.executable, "-c", PROGRAM, heaps]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        mapped[heaps] = float(done.stdout)
    assert mapped["many"] - mapped["one"] > 2 * 64


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="collects in small steps")
def test_cycles_of_old_objects_are_looked_for_in_time() -> None:
    """A full collection comes when a quarter as many objects have come as there are."""
    full = {}
    for what in ("passed over", "looked at"):
        command = [sys.executable, "-c", COLLECTIONS, what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        full[what] = int(done.stdout)
    assert full["looked at"] == 0
    assert full["passed over"] > 0
