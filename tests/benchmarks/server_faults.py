"""What a good caller notices of attacks: how evenly its audio comes before and during each, and its answers.

`moshi-agent serve` runs as its users run it, with a token. A good caller in a process of its own asks sample
questions over GPT-Live and notes when audio comes: every 80 ms, if nothing disturbs. One attack after the
other (`attacks.py`) runs in another process. All share this machine's cores: part of what is seen is that.

    PYTHONPATH=.:adapters python tests/benchmarks/server_faults.py [--seconds 20] [--only "GET"]

Prints a line for each attack. The exit status is 1 if under one of them the 99th percentile grew to more than
1.5 times what it was, an answer was wrong or the call was lost, or if the server was not whole afterwards.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import queue
import sys
import threading
import time
from collections import deque

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
)


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


def measure(server: ServeProcess, attacks: dict[str, Attack], seconds: float) -> bool:
    """Prints a line for each attack. Returns whether all is as it should be."""
    place, source = Place(server.port, _TOKEN), _SPAWN.Queue()
    until = time.monotonic() + _BEGIN_S + len(attacks) * (2 * seconds + 2 * _SETTLE_S)
    caller = _SPAWN.Process(target=call_again_and_again, args=(place.live, until, source), daemon=True)
    caller.start()
    time.sleep(_BEGIN_S)
    notes, is_well = Notes(source), True
    print(f"{'':56}{'before':>25}{'during':>17}")
    head = f"{'attack':32}{'after':24}{'did':>9}{'p99 ms':>9}{'right':>8}{'p99 ms':>10}{'right':>8}"
    print(f"{head}{'times':>7}  rss_mb fds")
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
    caller.terminate()
    return is_well


def _is_whole(place: Place) -> bool:
    """Whether the server answers, and all rows but the good caller's are free again."""
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)
    try:
        connection.request("GET", "/ready", headers={"Authorization": f"Bearer {place.token}"})
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
    parser.add_argument("--only", default="", help="a part of the attacks' names")
    asked = parser.parse_args()
    attacks = {name: attack for name, attack in ATTACKS.items() if asked.only.lower() in name.lower()}
    with serving(*_OPTIONS) as server:
        said: deque[str] = deque(maxlen=200)
        assert server.process.stdout is not None
        threading.Thread(target=said.extend, args=(server.process.stdout,), daemon=True).start()
        is_well = measure(server, attacks, asked.seconds)
        is_well = is_well and server.process.poll() is None and engine_of(server.process.pid) is not None
    tracebacks = sum("Traceback" in line for line in said)
    print(f"{tracebacks} tracebacks in the last {len(said)} lines of the server's log")
    return 0 if is_well and not tracebacks else 1


if __name__ == "__main__":
    sys.exit(main())
