"""What a good caller notices of attacks: how evenly its audio comes before and during each, and its answers.

`moshi-agent serve` runs as its users run it, with a token. A good caller in a process of its own asks sample
questions over GPT-Live and notes when audio comes: every 80 ms, if nothing disturbs. One attack after the
other (`attacks.py`) runs in another process. All share this machine's cores: part of what is seen is that.
In the end the engine's process is stopped, and then killed.

    PYTHONPATH=.:adapters python tests/benchmarks/server_faults.py [--seconds 20] [--only "GET"]

Prints a line for each attack. The exit status is 1 if under one of them the 99th percentile grew to more than
1.5 times what it was, an answer was wrong or the call was lost, or if the server was not whole afterwards,
and if the caller was not told in time that the engine is lost, or not served again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing, contextmanager

import numpy as np

from tests.adapters.server.server_process import ServeProcess, serving
from tests.benchmarks.attacks import ATTACKS, Attack, Place
from tests.benchmarks.good_caller import Answer, Chunk, Lost, Noted, call_again_and_again
from tests.benchmarks.process_figures import engine_of, figures_of

MOST_TIMES = 1.5
FRAME_MS = 80.0
_BEGIN_S = 20.0  # for the good caller's process and its first call
_SETTLE_S = 9.0  # after an attack: rows are freed, and the last question is answered
_TOKEN = "correct-horse-battery"
_SPAWN = multiprocessing.get_context("spawn")
_OPTIONS = (
    "--capacity",
    "8",
    "--overcommit",
    "--token",
    _TOKEN,
    "--say-commentary",
    "--starts-per-minute",
    "100000",
    "--hang-seconds",
    "10",
)
_TOLD_S, _BACK_S = {"killed": 3.0, "stopped": 15.0}, 30.0


class Notes:
    """What the good caller has noted so far."""

    def __init__(self, source: multiprocessing.Queue[Noted]) -> None:
        self._source, self._noted = source, list[Noted]()

    def between(self, start: float, end: float) -> list[Noted]:
        """What happened in this time."""
        try:
            while True:
                self._noted.append(self._source.get_nowait())
        except queue.Empty:
            pass
        return [one for one in self._noted if start <= one.at < end]


class Window:
    """How it went for the good caller in some time."""

    def __init__(self, noted: list[Noted]) -> None:
        came = [one.at for one in noted if isinstance(one, Chunk)]
        answers = [one.is_right for one in noted if isinstance(one, Answer)]
        self.lost = [one.why for one in noted if isinstance(one, Lost)]
        self.p99_ms = float(np.percentile(1000 * np.diff(came), 99)) if len(came) > 10 else float("inf")
        self.right, self.asked = sum(answers), len(answers)

    def __str__(self) -> str:
        return f"{self.p99_ms:9.0f}{self.right:4}/{self.asked:<3}"


def run_attack(place: Place, name: str, notes: Notes, seconds: float) -> tuple[Window, Window, int]:
    """Waits, attacks for as long, and settles: before, during, and what the attacker did."""
    started = time.monotonic()
    time.sleep(seconds)
    begun, done = time.monotonic(), _SPAWN.Value("q", -1)
    attacker = _SPAWN.Process(target=_attack, args=(place, name, begun + seconds, done), daemon=True)
    attacker.start()
    attacker.join(seconds + _SETTLE_S)
    ended = begun + seconds
    if attacker.is_alive():
        attacker.kill()
        attacker.join()
    time.sleep(max(0.0, ended + _SETTLE_S - time.monotonic()))
    return Window(notes.between(started, begun)), Window(notes.between(begun, ended)), int(done.value)


def _attack(
    place: Place, name: str, until: float, done: multiprocessing.sharedctypes.Synchronized[int]
) -> None:
    done.value = ATTACKS[name].work(place, until)


@contextmanager
def good_caller(place: Place, seconds: float) -> Generator[Notes]:
    """Somebody who calls for at most so long, once the first call has begun."""
    source: multiprocessing.Queue[Noted] = _SPAWN.Queue()
    until = time.monotonic() + _BEGIN_S + seconds
    caller = _SPAWN.Process(target=call_again_and_again, args=(place.live, until, source), daemon=True)
    caller.start()
    time.sleep(_BEGIN_S)
    try:
        yield Notes(source)
    finally:
        caller.terminate()
        caller.join()


def measure(
    server: ServeProcess, place: Place, attacks: dict[str, Attack], notes: Notes, seconds: float
) -> bool:
    """Prints a line for each attack. Returns whether all is as it should be."""
    is_well = True
    for name, attack in attacks.items():
        before, during, did = run_attack(place, name, notes, seconds)
        times = during.p99_ms / max(before.p99_ms, FRAME_MS)
        is_fine = (
            times <= MOST_TIMES and during.right == during.asked and not during.lost and _is_whole(place)
        )
        figures = figures_of(server.process.pid)
        size = f"{figures.resident_mb:7.0f}{figures.descriptors:4}" if figures else "   gone"
        line = f"{name:32}{attack.after:24}{did:9}{before} {during}{times:7.2f} {size}"
        print(line, "" if is_fine else "!", *during.lost[:1], flush=True)
        is_well = is_well and is_fine
    return is_well


def lose_engine(server: ServeProcess, place: Place, notes: Notes, how: str) -> bool:
    """Stops or kills the engine's process, and prints what the caller and others see of it."""
    engine = engine_of(server.process.pid)
    assert engine is not None
    begun = time.monotonic()
    os.kill(engine, signal.SIGSTOP if how == "stopped" else signal.SIGKILL)
    worst_s, told_s, back_s = 0.0, float("inf"), float("inf")
    while time.monotonic() < begun + _TOLD_S[how] + _BACK_S and back_s == float("inf"):
        asked = time.monotonic()
        with closing(place.http()) as connection:
            connection.request("GET", "/v1/models", headers=place.bearer)
            connection.getresponse().read()
        worst_s = max(worst_s, time.monotonic() - asked)
        noted = notes.between(begun, float("inf"))
        told_s = min([told_s, *(one.at - begun for one in noted if isinstance(one, Lost))])
        came = (one.at - begun for one in noted if isinstance(one, Chunk))
        back_s = min([back_s, *(at for at in came if at > told_s)])
        time.sleep(0.1)
    print(
        f"the engine is {how}: the caller is told after {told_s:.1f} s, and hears the next call after "
        f"{back_s:.1f} s; GET /v1/models took {worst_s:.2f} s at most",
        flush=True,
    )
    return told_s <= _TOLD_S[how] and back_s - told_s <= _BACK_S and worst_s < 1


def _is_whole(place: Place) -> bool:
    """Whether the server answers, and all rows but the good caller's are free again."""
    connection = place.http()
    try:
        connection.request("GET", "/ready", headers=place.bearer)
        return int(json.loads(connection.getresponse().read())["live"]) <= 1
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="before each attack, and of it")
    parser.add_argument("--only", default="", help="a part of the attacks' names, or several with | between")
    asked = parser.parse_args()
    print(f"{'':56}{'before':>25}{'during':>17}")
    head = f"{'attack':32}{'after':24}{'did':>9}{'p99 ms':>9}{'right':>8}{'p99 ms':>10}{'right':>8}"
    print(f"{head}{'times':>7}  rss_mb fds")
    parts = asked.only.lower().split("|")
    named = {name: one for name, one in ATTACKS.items() if any(part in name.lower() for part in parts)}
    runs = [_run(named, asked.seconds, has_tls=has_tls) for has_tls in (True, False)]
    return 0 if all(runs) else 1


def _run(named: dict[str, Attack], seconds: float, has_tls: bool) -> bool:
    """Attacks one server with what is for its kind. Returns whether it has withstood all of it."""
    attacks = {name: attack for name, attack in named.items() if attack.over_tls == has_tls}
    if not attacks:
        return True
    with serving(*_OPTIONS, *["--ssl-self-signed"] * has_tls) as server:
        said: deque[str] = deque(maxlen=2000)
        assert server.process.stdout is not None
        threading.Thread(target=said.extend, args=(server.process.stdout,), daemon=True).start()
        place = Place(server.port, _TOKEN, has_tls)
        with good_caller(place, len(attacks) * (2 * seconds + 2 * _SETTLE_S) + 120) as notes:
            is_well = measure(server, place, attacks, notes, seconds)
            if not has_tls:
                is_well = all([lose_engine(server, place, notes, how) for how in _TOLD_S]) and is_well
        is_well = is_well and server.process.poll() is None
    tracebacks = [number for number, line in enumerate(said) if "Traceback" in line]
    print(f"{len(tracebacks)} tracebacks in the last {len(said)} lines of the server's log")
    if tracebacks:
        print("the first one:", *[line.rstrip() for line in said][tracebacks[0] :][:30], sep="\n    ")
    return is_well and not tracebacks


if __name__ == "__main__":
    sys.exit(main())
