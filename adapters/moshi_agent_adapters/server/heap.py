"""What keeps the memory of a server from growing with the calls of a day, though nothing is leaked.

One heap for all threads: aiortc begins a thread for each call that decodes its audio. glibc gives threads
heaps in turn, and in each of them free pieces stay between those in use. Python's threads wait for one
another anyway, so one heap is enough.

Collections of cycles in time: what a WebRTC call leaves are cycles of some hundred objects, most of them
aiortc's, with the memory of OpenSSL, libsrtp and FFmpeg behind them. Python looks for cycles among old
objects when some ten thousands have come, and a quarter as many as there are; a server's modules alone have a
quarter of a million. Hundreds of calls would wait for it.

`tests/benchmarks/webrtc_memory.py` shows both.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager

_M_ARENA_MAX = -8  # of `mallopt`, in glibc's malloc.h
_MIDDLE_COLLECTIONS = 1  # between two full ones; Python's own number is 10


def share_one_heap() -> bool:
    """Has all threads that begin from now on use one heap. Returns whether the C library knows how."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and mallopt(_M_ARENA_MAX, 1) == 1


@contextmanager
def passing_over_what_stays() -> Generator[None]:
    """Has the collector of cycles pass over all objects that there are now: for the time after all is loaded.

    Full collections then come after some dozens of calls, and take little time.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.collect()  # counts how many old objects there are: hardly any now
    gc.set_threshold(*before[:2], _MIDDLE_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()  # what libraries look for at the end of the process is found
