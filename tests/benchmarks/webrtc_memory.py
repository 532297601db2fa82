"""Memory that stays of WebRTC calls: of aiortc alone, two peers in one process, or of `serve`.

    PYTHONPATH=.:adapters python tests/benchmarks/webrtc_memory.py [--calls 240] [--at-once 4] [--one-heap]
    PYTHONPATH=.:adapters python tests/benchmarks/webrtc_memory.py --server

A call has audio both ways and a data channel, and ends. Prints by how much these grow, in KB, as calls pass:
the process's own pages; what the C library's allocator holds of the system; and what of it is in use. Where
the first two grow and the last does not, nothing is leaked: the allocator keeps free pieces between those in
use. At the end it is told to give them back (`malloc_trim`), and the objects are counted that a call leaves
in cycles, which only Python's collector finds; it runs before each line here, and by itself after many calls
(`moshi_agent_adapters/server/heap.py`). `--one-heap` is what `serve` does. Linux, glibc.

With `--server` the calls come to `moshi-agent serve`, and what its process takes is looked at from outside.
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
from tests.adapters.server.server_process import ServeProcess, serving
from tests.adapters.webrtc.webrtc_asking import request
from tests.adapters.webrtc.webrtc_peer import Caller
from tests.benchmarks.process_figures import Figures, figures_of

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
    gc.disable()
    await some(at_once)
    print(f"{gc.collect() / at_once:.0f} objects in cycles for each call, of both peers")
    gc.enable()


async def measure_server(server: ServeProcess, calls: int, at_once: int) -> None:
    async def some(count: int) -> None:
        for _ in range(count // at_once):
            await asyncio.gather(*[_call_server(server) for _ in range(at_once)])

    def figures() -> Figures:
        now = figures_of(server.process.pid)
        assert now is not None
        return now

    await some(_WARM_UP)
    print(f"{'calls':8}{'resident MB':>12}{'threads':>9}{'descriptors':>13}")
    for line in range(_LINES + 1):
        await some(calls // _LINES if line else 0)
        now = figures()
        size = f"{now.resident_mb:12.1f}{now.threads:9}{now.descriptors:13}"
        print(f"{_WARM_UP + line * (calls // _LINES):<8}{size}", flush=True)


async def _call_server(server: ServeProcess) -> None:
    """One call, until its first figures have come."""
    caller = Caller()
    try:
        offer = {"sdp": await caller.offer()}
        status, answer = await asyncio.to_thread(request, "POST", f"{server.url}/api/webrtc", offer)
        assert status == 201, answer
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"), _PATIENCE_S)
        await asyncio.to_thread(request, "DELETE", f"{server.url}/api/webrtc/{answer['id']}")
    finally:
        await caller.hang_up()


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
    parser.add_argument("--server", action="store_true", help="calls to `moshi-agent serve`")
    asked = parser.parse_args()
    if asked.server:
        options = ("--capacity", str(4 * asked.at_once), "--overcommit", "--starts-per-minute", "100000")
        with serving(*options) as server:
            asyncio.run(measure_server(server, asked.calls, asked.at_once))
        return
    if asked.one_heap:
        assert share_one_heap()
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Heap
    asyncio.run(measure(libc, asked.calls, asked.at_once))


if __name__ == "__main__":
    main()
