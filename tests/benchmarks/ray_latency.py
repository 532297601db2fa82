"""What the way through Ray Serve adds to a frame: the same server direct and behind Serve, in turns.

    python tests/benchmarks/ray_latency.py --seconds 20 --calls 2

Each call speaks Kyutai's protocol and sends a frame of sound and a ping every 80 ms. The server answers pings
by itself, beside the model, so their round trip is that of the way. Needs the extras `ray` and `server`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import ExitStack

import numpy as np
from websockets.asyncio.client import connect

from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.opus import OpusWriter
from tests.adapters.ray.ray_process import serving_on_ray
from tests.adapters.server.server_process import serving

FRAME_S = 0.08
ROUNDS = 3  # each way is taken so often, in turns: the machine may be busier at one time than at another


async def round_trips(url: str, calls: int, seconds: float) -> list[float]:
    """Round trips of pings in ms, of so many calls at once."""
    measured = await asyncio.gather(*(_one_call(url, seconds) for _ in range(calls)))
    return [ms for one in measured for ms in one]


async def _one_call(url: str, seconds: float) -> list[float]:
    writer, sent, measured = OpusWriter(), [], []
    async with connect(f"{url}/api/chat", compression=None, open_timeout=60) as websocket:
        assert await websocket.recv() == Kind.HANDSHAKE.message()

        async def listen() -> None:
            async for message in websocket:
                if message == Kind.PING.message():
                    measured.append(1000 * (time.monotonic() - sent.pop(0)))

        listening = asyncio.create_task(listen())
        await websocket.send(Kind.AUDIO.message(writer.header()))
        start = time.monotonic()
        for number in range(round(seconds / FRAME_S)):
            await asyncio.sleep(max(0.0, start + number * FRAME_S - time.monotonic()))
            await websocket.send(Kind.AUDIO.message(writer.push(np.zeros(1920, np.float32))))
            await asyncio.sleep(FRAME_S / 2)  # between two frames, so that none of them is in the way
            sent.append(time.monotonic())
            await websocket.send(Kind.PING.message())
        await asyncio.sleep(0.5)
        listening.cancel()
    return measured


def main() -> None:
    """Prints percentiles of both ways and their difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round")
    parser.add_argument("--calls", type=int, default=2, help="at once")
    arguments = parser.parse_args()
    capacity = ("--capacity", str(arguments.calls))
    with ExitStack() as stack:
        direct = stack.enter_context(serving("--overcommit", *capacity))
        on_ray = stack.enter_context(serving_on_ray("--replicas", "1", *capacity))
        ways = {"direct": direct.websocket, "Ray Serve": on_ray.websocket}
        measured: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, url in ways.items():
                measured[name] += asyncio.run(round_trips(url, arguments.calls, arguments.seconds))
    figures = {name: np.percentile(found, (50, 99)) for name, found in measured.items()}
    for name, (median, late) in figures.items():
        print(f"{name:10} {len(measured[name]):5d} round trips   p50 {median:6.2f} ms   p99 {late:6.2f} ms")
    added = figures["Ray Serve"] - figures["direct"]
    print(f"Ray Serve adds   p50 {added[0]:.2f} ms   p99 {added[1]:.2f} ms")


if __name__ == "__main__":
    main()
