"""The heap of the C library, of which every thread of a server would have one of its own.

aiortc begins a thread for each call that decodes its audio. glibc gives threads heaps in turn, and in each of
them free pieces stay between those in use: memory that grows with the calls of a day though nothing is leaked
(`tests/benchmarks/webrtc_memory.py`). Python's threads wait for one another anyway, so one heap is enough.
"""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # of `mallopt`, in glibc's malloc.h


def share_one_heap() -> bool:
    """Has all threads that begin from now on use one heap. Returns whether the C library knows how."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and mallopt(_M_ARENA_MAX, 1) == 1
