"""Memory that stays of WebRTC calls: of aiortc alone, two peers in one process, without anything of ours.

    PYTHONPATH=.:adapters python tests/benchmarks/webrtc_memory.py [--calls 240] [--at-once 4] [--one-heap]

A call has audio both ways and a data channel, and ends. Prints by how much these grow, in KB, as calls pass:
the process's own pages; what the C library's allocator holds of the system; and what of it is in use. Where
the first two grow and the last does not, nothing is leaked: the allocator keeps free pieces between those in
use. At the end it is told to give them back (`malloc_trim`). `--one-heap` is what `serve` does. Linux, glibc.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import re
from dataclasses import astuple, dataclass
from pathlib import Path

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack

from moshi_agent_adapters.server.heap import share_one_heap

_WARM_UP = 40  # calls
_LINES = 6
_FRAMES = 3  # of audio that are heard of a call
_PATIENCE_S = 60.0


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@dataclass(frozen=True)
class Memory:
    """Of this process, in KB."""

    resident: int
    held: int
    in_use: int


def memory(libc: ctypes.CDLL) -> Memory:
    gc.collect()
    heap = libc.mallinfo2()
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    held, in_use = (size + heap.hblkhd for size in (heap.arena, heap.uordblks))
    return Memory(int(found[1]), held // 1024, in_use // 1024)


async def call() -> None:
    """One call between two peers, until both have been heard."""
    caller, called = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    heard = [asyncio.create_task(_hear(peer)) for peer in (caller, called)]
    caller.createDataChannel("events")
    caller.addTrack(AudioStreamTrack())
    called.addTrack(AudioStreamTrack())
    await caller.setLocalDescription(await caller.createOffer())
    await called.setRemoteDescription(RTCSessionDescription(caller.localDescription.sdp, "offer"))
    await called.setLocalDescription(await called.createAnswer())
    await caller.setRemoteDescription(RTCSessionDescription(called.localDescription.sdp, "answer"))
    await asyncio.wait_for(asyncio.gather(*heard), _PATIENCE_S)
    await caller.close()
    await called.close()


async def _hear(peer: RTCPeerConnection) -> None:
    track: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
    peer.on("track", track.set_result)
    try:
        for _ in range(_FRAMES):
            await (await track).recv()
    except MediaStreamError:
        pass


async def measure(libc: ctypes.CDLL, calls: int, at_once: int) -> None:
    async def some(count: int) -> None:
        for _ in range(count // at_once):
            await asyncio.gather(*[call() for _ in range(at_once)])

    await some(_WARM_UP)
    first = memory(libc)
    print(f"{'calls':8}{'resident':>10}{'held':>10}{'in use':>10}   KB more than after {_WARM_UP}")
    for line in range(1, _LINES + 1):
        await some(calls // _LINES)
        _print(str(line * (calls // _LINES)), memory(libc), first)
    libc.malloc_trim(0)
    _print("trimmed", memory(libc), first)


def _print(name: str, now: Memory, first: Memory) -> None:
    more = "".join(f"{b - a:10}" for a, b in zip(astuple(first), astuple(now), strict=True))
    print(f"{name:8}{more}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=240)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--one-heap", action="store_true")
    asked = parser.parse_args()
    if asked.one_heap:
        assert share_one_heap()
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Heap
    asyncio.run(measure(libc, asked.calls, asked.at_once))


if __name__ == "__main__":
    main()
