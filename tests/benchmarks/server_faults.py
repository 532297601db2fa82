"""What good callers notice of bad ones: how evenly their audio comes before and during attacks.

Good callers, in a process of their own, hum in real time over GPT-Live and note the time between two chunks
of audio that they get: 80 ms, if nothing disturbs. Meanwhile others misbehave, one way after the other and
then all at once, each in a process. They take rows, and everything shares this machine's cores: part of what
is seen is that.

    PYTHONPATH=. python tests/benchmarks/server_faults.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import WebSocketException

from tests.adapters.server.bad_clients import START, append, chat, deaf_socket, frame, live, opus, upgrade
from tests.adapters.server.server_clients import paced, rest

FRAME_SAMPLES, FRAME_S = 1920, 0.08
SPAWN = multiprocessing.get_context("spawn")
SETTLE_S = 4.0  # at the start, and between two attacks: rows are freed


@dataclass(frozen=True)
class Place:
    """A server on this machine."""

    port: int

    @property
    def websocket(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Heard:
    """A chunk of audio that a good caller got."""

    at: float  # by the monotonic clock, which all processes share
    gap_s: float  # since the one before


# Bad clients. Each misbehaves once.


def malformed_json(place: Place) -> None:
    with live(place) as connection:
        connection.send("{oops")
        rest(connection)


def garbage_opus(place: Place) -> None:
    with chat(place) as connection:
        connection.send(b"\x01" + b"garbage" * 2000)
        rest(connection)


def ten_times_real_time(place: Place) -> None:
    with chat(place) as connection:
        stream = opus(60.0)
        step = len(stream) * 8 // 600
        for start in range(0, len(stream), step):
            connection.send(b"\x01" + stream[start : start + step])
            time.sleep(FRAME_S)


def never_reads(place: Place) -> None:
    with deaf_socket(place) as raw:
        upgrade(raw, "/v1/live/sessions")
        raw.sendall(frame(START.encode()))
        for _ in range(100):
            raw.sendall(frame(append(bytes(2 * FRAME_SAMPLES)).encode()))
            time.sleep(FRAME_S)


def half_open(place: Place) -> None:
    with deaf_socket(place) as raw:
        upgrade(raw, "/api/chat")
        time.sleep(3.0)


ATTACKS: dict[str, Callable[[Place], None]] = {
    "malformed JSON": malformed_json,
    "garbage for Opus": garbage_opus,
    "ten times real time": ten_times_real_time,
    "never reads": never_reads,
    "half open": half_open,
}


def attack(place: Place, name: str, phase: Phase, count: Any) -> None:
    """Misbehaves again and again, with a little time between. Counts in a shared number."""
    time.sleep(max(0.0, phase.start - time.monotonic()))
    while time.monotonic() < phase.end:
        with suppress(OSError, WebSocketException, AssertionError):  # refused, or thrown out
            ATTACKS[name](place)
        with count.get_lock():
            count.value += 1
        time.sleep(0.05)


# Good callers


async def call(place: Place, until: float) -> list[Heard]:
    """One good caller, for so long."""
    heard: list[Heard] = []
    before: float | None = None
    async with connect_async(f"{place.websocket}/v1/live/sessions") as websocket:
        await websocket.send(START)
        speech = asyncio.create_task(speak(websocket))
        while time.monotonic() < until:
            event = json.loads(await websocket.recv())
            assert event["type"] != "error", event
            if event["type"] != "session.output_audio.delta":
                continue
            now = time.monotonic()
            if before is not None:
                heard.append(Heard(now, now - before))
            before = now
        speech.cancel()
    return heard


async def speak(websocket: ClientConnection) -> None:
    wave = 800 * np.sin(2 * np.pi * 200 / 24_000 * np.arange(FRAME_SAMPLES))
    hum = append(wave.astype("<i2").tobytes())
    async for _ in paced(np.zeros(0, np.float32)):
        await websocket.send(hum)


def call_all(place: Place, callers: int, until: float, answers: Any) -> None:
    """The good callers, in a process."""

    async def together() -> list[list[Heard]]:
        return await asyncio.gather(*[call(place, until) for _ in range(callers)])

    answers.put([one for of_caller in asyncio.run(together()) for one in of_caller])


# The measurement


@dataclass(frozen=True)
class Phase:
    """A part of the measurement."""

    name: str
    attacks: tuple[str, ...]  # each by a process of its own
    start: float
    end: float


def plan(seconds: float) -> list[Phase]:
    """Quiet, every attack, all of them, and quiet again."""
    parts = {"quiet, before": (), **{name: (name,) for name in ATTACKS}, "all at once": tuple(ATTACKS)}
    begin, each = time.monotonic() + 2 * SETTLE_S, seconds + SETTLE_S
    starts = [begin + number * each for number in range(len(parts) + 1)]
    parts |= {"quiet, after": ()}
    return [
        Phase(name, attacks, start, start + seconds)
        for (name, attacks), start in zip(parts.items(), starts, strict=True)
    ]


def observe(place: Place, phase: Phase, callers: int) -> tuple[int, list[float]]:
    """Sees a phase to its end: how many attacks there were, and the good callers' gaps in ms."""
    count, answers = SPAWN.Value("i", 0), SPAWN.Queue()
    good = SPAWN.Process(target=call_all, args=(place, callers, phase.end, answers))
    bad = [SPAWN.Process(target=attack, args=(place, name, phase, count)) for name in phase.attacks]
    for process in (good, *bad):
        process.start()
    heard: list[Heard] = answers.get()
    good.join()
    for process in bad:
        process.terminate()
        process.join()
    return count.value, [1000 * one.gap_s for one in heard if one.at >= phase.start]


def measure(place: Place, callers: int, seconds: float) -> None:
    """Prints a line for each phase."""
    print(f"{'ms':22}{'attacks':>9}{'chunks':>9}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
    for phase in plan(seconds):
        count, times = observe(place, phase, callers)
        p50, p95, p99 = np.percentile(times, (50, 95, 99))
        line = f"{phase.name:22}{count:9}{len(times):9}{p50:8.1f}{p95:8.1f}{p99:8.1f}{max(times):8.1f}"
        print(line, flush=True)


def main() -> None:
    """Serves `tiny` and measures."""
    from moshi_agent import Engine
    from moshi_agent_adapters.server import ServerConfig
    from tests.adapters.server.server_calls import running, wait_for

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="of each phase")
    parser.add_argument("--callers", type=int, default=3, help="good ones")
    parser.add_argument("--rows", type=int, default=8)
    asked = parser.parse_args()
    engine = Engine.load("tiny", device="cpu", capacity=asked.rows, process=True, admit_by_time=False)
    # Impatient: so many attacks as can be fit in.
    config = ServerConfig(
        idle_s=1.5, ahead_s=3.0, send_s=1.0, starts_per_minute=100_000, calls_per_address=32
    )
    with running(engine, config, ws_ping_interval=1.0, ws_ping_timeout=1.0) as server:
        measure(Place(server.port), asked.callers, asked.seconds)
        wait_for(lambda: not server.live, 5)


if __name__ == "__main__":
    main()
