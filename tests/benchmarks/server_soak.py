"""An hour of calls over every protocol, with what goes wrong in one: is all answered, and nothing left?

    PYTHONPATH=.:adapters python tests/benchmarks/server_soak.py [--minutes 60] [--kill-minutes 10]

Callers ask sample questions over Kyutai's protocol, GPT-Live, Realtime and WebRTC, and by Twilio's protocol
the phone agent of the examples. Some hang up early, some are muted at first, some stall for seconds and send
all at once, some send messages that nobody understands; all but the first are answered. Who stalled in the
middle of a question asks again where no answer comes: the bot has heard two halves and a pause. Now and then
the engine's process is killed, and the calls of that moment end.

Prints a line a minute: memory, threads and descriptors of the server, memory of the engine's process, the
same of the phone agent, rows, and what became of the calls. The exit status is 1 if an answer was wrong, if
rows, threads or descriptors stay, or if the server's memory grows by more than 20 MB an hour after the first
fifth.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.live_audio import PCM_24K
from moshi_agent_adapters.protocols.opus import OpusWriter
from tests.adapters.server.bad_clients import START
from tests.adapters.server.server_clients import PATIENCE_S, paced, question
from tests.adapters.server.server_process import ServeProcess, serving
from tests.adapters.webrtc.webrtc_asking import request
from tests.adapters.webrtc.webrtc_peer import Caller
from tests.benchmarks.good_caller import QUESTIONS
from tests.benchmarks.phone_agent import PhoneAgent, answering, as_on_the_telephone, hear_greeting, ring
from tests.benchmarks.process_figures import Figures, engine_of, figures_of

MOST_GROWTH_MB = 20.0  # an hour
_RECOVERY_S = 30.0  # after a kill, in which calls may be lost or refused
_AT_REST_S = 20.0  # after the last call, until what is left is counted
_ASKED_AGAIN_S = 12.0  # after a question that a stall has cut in two
_TROUBLES = ("none", "none", "none", "early", "mute", "stall", "bad messages")
_ROWS = 6


@dataclass(frozen=True)
class Call:
    """What one caller asks, and what goes wrong with it."""

    samples: NDArray[np.float32]  # [N] at 24 kHz
    expected: str
    trouble: str
    length_s: float  # of the trouble

    @property
    def said(self) -> NDArray[np.float32]:
        """What its microphone gives [N]: a muted one is silent at first, one that stalls asks twice."""
        if self.trouble == "mute":
            return np.concatenate([_silence(self.length_s), self.samples])
        if self.trouble == "stall":
            return np.concatenate([self.samples, _silence(_ASKED_AGAIN_S), self.samples])
        return self.samples

    async def chunks(self, bad: Any) -> Any:
        """Its audio in real time. In the middle comes the trouble: it stalls, or `bad` is called."""
        number = 0
        async for chunk in paced(self.said):
            if number == 6 and self.trouble == "stall":
                await asyncio.sleep(self.length_s)  # then all that has waited comes at once
            if number == 6 and self.trouble == "bad messages":
                await bad()
            number += 1
            yield chunk


def _silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(24_000 * seconds), np.float32)


@dataclass(frozen=True)
class Places:
    """Where callers can call."""

    server: ServeProcess
    phone: PhoneAgent

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def websocket(self) -> str:
        return self.server.websocket


class Refused(Exception):
    """The server has no row, or takes nobody for now."""


# The protocols: each asks, and returns when the answer has come.


async def ask_kyutai(place: Places, call: Call) -> None:
    async with connect(f"{place.websocket}/api/chat", compression=None, open_timeout=PATIENCE_S) as websocket:
        first = await websocket.recv()
        if first != Kind.HANDSHAKE.message():
            raise Refused(repr(first))

        async def speak() -> None:
            writer = OpusWriter()
            await websocket.send(Kind.AUDIO.message(writer.header()))
            async for chunk in call.chunks(lambda: _send_all(websocket, "text", b"", b"\x63unknown")):
                await websocket.send(Kind.AUDIO.message(writer.push(chunk)))

        def text_of(message: Any) -> str:
            return message[1:].decode() if message[0] == Kind.TEXT else ""

        await _until_answered(websocket, call, speak(), text_of)


async def ask_gpt_live(place: Places, call: Call) -> None:
    await _ask_openai(
        *(place, call, "/v1/live/sessions", START),
        *("session.started", "session.input_audio.append", "session.output_transcript.delta"),
    )


async def ask_realtime(place: Places, call: Call) -> None:
    await _ask_openai(
        *(
            place,
            call,
            "/v1/realtime?model=tiny",
            json.dumps({"type": "session.update", "session": {"type": "realtime"}}),
        ),
        *("session.updated", "input_audio_buffer.append", "response.output_audio_transcript.delta"),
    )


async def _ask_openai(
    place: Places, call: Call, path: str, first: str, begun: str, append: str, delta: str
) -> None:
    async with connect(f"{place.websocket}{path}", open_timeout=PATIENCE_S) as websocket:
        await websocket.send(first)
        while (event := json.loads(await websocket.recv()))["type"] != begun:
            if event["type"] == "error":
                raise Refused(json.dumps(event))
        bad = (json.dumps({"type": "nothing.that.is"}), json.dumps({"type": append, "audio": "AAAA"}), "{}")

        async def speak() -> None:
            async for chunk in call.chunks(lambda: _send_all(websocket, *bad)):
                audio = base64.b64encode(PCM_24K.encode(chunk)).decode()
                await websocket.send(json.dumps({"type": append, "audio": audio}))

        def text_of(message: Any) -> str:
            event = json.loads(message)
            return event["delta"] if event["type"] == delta else ""

        await _until_answered(websocket, call, speak(), text_of)


async def _send_all(websocket: ClientConnection, *messages: str | bytes) -> None:
    for message in messages:
        await websocket.send(message)


async def _until_answered(websocket: ClientConnection, call: Call, speech: Any, text_of: Any) -> None:
    text, task = "", asyncio.create_task(speech)
    try:
        while call.expected.lower() not in text.lower():
            text += text_of(await websocket.recv())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask_webrtc(place: Places, call: Call) -> None:
    caller = Caller()
    try:
        offer = {"sdp": await caller.offer()}
        status, answer = await asyncio.to_thread(request, "POST", f"{place.url}/api/webrtc", offer)
        if status != 201:
            raise Refused(json.dumps(answer))
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"), PATIENCE_S)
        if call.trouble == "bad messages":
            for message in ("{oops", "[]", json.dumps({"type": "nothing"})):
                caller.channel.send(message)
        if call.trouble == "mute":
            await asyncio.sleep(call.length_s)
        caller.microphone.play(soxr.resample(call.samples, 24_000, 48_000))
        while call.expected.lower() not in caller.text.lower():
            ends = [event for event in caller.events if event["type"] == "ended"]
            if ends or caller.peer.connectionState in ("failed", "closed"):
                raise ConnectionResetError(str(ends))
            await asyncio.sleep(0.05)
    finally:
        await caller.hang_up()


async def ask_phone(place: Places, call: Call) -> None:
    rung = await ring(place.phone)
    if rung is None:
        raise Refused("busy")
    call_sid, phone = rung
    async with phone:
        await hear_greeting(phone)
        for number in (6, 7) if call.trouble == "bad messages" else ():
            await phone.send({"event": "nothing", "number": number})
            await phone.socket.send("{")
        phone.say(as_on_the_telephone(call.said))
        while call.expected.lower() not in place.phone.said(call_sid).lower():
            if phone.is_over:
                raise ConnectionResetError("the bot has hung up")
            await asyncio.sleep(0.1)


PROTOCOLS = {
    "kyutai": ask_kyutai,
    "gpt-live": ask_gpt_live,
    "realtime": ask_realtime,
    "webrtc": ask_webrtc,
    "telephone": ask_phone,
}


@dataclass
class Outcomes:
    """What became of all calls so far."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    killed_at: float = float("-inf")

    def note(self, outcome: str, what: str) -> None:
        """Counts a call. What goes wrong around a kill of the engine is no fault."""
        if outcome in ("wrong", "lost", "refused") and time.monotonic() - self.killed_at < _RECOVERY_S:
            outcome = "around a kill"
        self.counts[outcome] += 1
        if outcome in ("wrong", "lost", "refused"):
            self.wrong.append(f"{outcome}: {what}")


async def call_again_and_again(place: Places, draw: random.Random, until: float, outcomes: Outcomes) -> None:
    """One caller: one call after the other, each over any protocol and with any trouble."""
    while time.monotonic() < until:
        await asyncio.sleep(draw.uniform(0, 3))
        words, expected = draw.choice(QUESTIONS)
        protocol, trouble = draw.choice(list(PROTOCOLS)), draw.choice(_TROUBLES)
        call = Call(question(words), expected, trouble, draw.uniform(2, 9))
        what = f"{protocol}, {trouble}, {words}"
        patience_s = draw.uniform(0.1, 4) if trouble == "early" else PATIENCE_S + call.length_s
        try:
            await asyncio.wait_for(PROTOCOLS[protocol](place, call), patience_s)
            outcomes.note("right", what)
        except (TimeoutError, AssertionError):
            outcomes.note("left early" if trouble == "early" else "wrong", what)
        except Refused as refusal:
            outcomes.note("refused", f"{what}: {refusal}")
        except (OSError, WebSocketException) as error:
            outcomes.note("lost", f"{what}: {error!r}")


# The server, watched


class Watch:
    """Prints a line a minute, and kills the engine's process now and then."""

    def __init__(self, places: Places, outcomes: Outcomes, kill_s: float) -> None:
        self._server, self._outcomes, self._kill_s = places.server, outcomes, kill_s
        self._phone = places.phone
        self.sizes: list[tuple[float, float]] = []  # hours, MB

    async def until(self, end: float) -> None:
        """Watches for so long."""
        started = time.monotonic()
        next_kill, next_line = started + self._kill_s, started + 60
        print("minute  rss_mb threads  fds engine_mb  phone_mb threads  fds  rows  calls", flush=True)
        while (now := time.monotonic()) < end:
            await asyncio.sleep(
                min(next_kill, next_line, end) - now if min(next_kill, next_line, end) > now else 0
            )
            now = time.monotonic()
            if now >= next_kill:
                next_kill += self._kill_s
                self._kill()
            if now >= min(next_line, end):
                next_line += 60
                await self.line((now - started) / 3600)

    def _kill(self) -> None:
        engine = engine_of(self._server.process.pid)
        if engine is not None:
            self._outcomes.killed_at = time.monotonic()
            self._outcomes.counts["kills"] += 1
            os.kill(engine, signal.SIGKILL)

    async def line(self, hours: float) -> tuple[Figures, int]:
        """Prints how it is now. Returns the server's figures and the rows in use."""
        engine = engine_of(self._server.process.pid)
        server, of_engine = figures_of(self._server.process.pid), figures_of(engine) if engine else None
        phone = figures_of(self._phone.process.pid)
        assert server is not None and phone is not None, "a server is gone"
        _, ready = await asyncio.to_thread(request, "GET", f"{self._server.url}/ready")
        rows = ready.get("live", -1)  # -1: the engine's process is being started again
        self.sizes.append((hours, server.resident_mb))
        engine_mb = of_engine.resident_mb if of_engine else 0.0
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._outcomes.counts.items()))
        print(
            f"{60 * hours:6.1f}  {server.resident_mb:6.1f} {server.threads:7}  {server.descriptors:3}"
            f"    {engine_mb:6.1f}    {phone.resident_mb:6.1f} {phone.threads:7}  {phone.descriptors:3}"
            f"  {rows:4}  {counts}",
            flush=True,
        )
        return server, rows

    def growth_mb_an_hour(self) -> float:
        """Of the server, by a line through all but the first fifth; 0 where that is too short to say."""
        late = self.sizes[len(self.sizes) // 5 :]
        return float(np.polyfit(*zip(*late, strict=True), 1)[0]) if len(late) >= 10 else 0.0


async def soak(places: Places, asked: argparse.Namespace) -> bool:
    """Whether all was answered, and nothing grew or was left."""
    outcomes = Outcomes()
    watch = Watch(places, outcomes, 60 * asked.kill_minutes)
    first = Call(question(QUESTIONS[0][0]), QUESTIONS[0][1], "none", 0)
    for ask in PROTOCOLS.values():
        await asyncio.wait_for(ask(places, first), 120)
    before, _ = await watch.line(0.0)
    watch.sizes.clear()
    end = time.monotonic() + 60 * asked.minutes
    callers = [
        call_again_and_again(places, random.Random(asked.seed + number), end, outcomes)
        for number in range(asked.callers)
    ]
    await asyncio.gather(watch.until(end), *callers)
    await asyncio.sleep(_AT_REST_S)
    after, rows = await watch.line(asked.minutes / 60)
    growth = watch.growth_mb_an_hour()
    print(
        f"at rest: {rows} rows, {after.descriptors - before.descriptors:+} descriptors, "
        f"{after.threads - before.threads:+} threads; {growth:+.1f} MB an hour"
    )
    print("\n".join(outcomes.wrong) or "nothing was wrong, lost or refused")
    is_left = (
        rows != 0 or after.descriptors > before.descriptors + 4
    )  # kept connections, a new engine's pipes
    return not outcomes.wrong and not is_left and growth <= MOST_GROWTH_MB and outcomes.counts["right"] > 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--callers", type=int, default=3)
    parser.add_argument(
        "--kill-minutes", type=float, default=10, help="from one kill of the engine to the next"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what callers do")
    asked = parser.parse_args()
    with serving("--capacity", str(_ROWS), "--overcommit") as server, answering(_ROWS) as phone:
        said: deque[str] = deque(maxlen=50)
        assert server.process.stdout is not None
        threading.Thread(target=said.extend, args=(server.process.stdout,), daemon=True).start()
        is_well = asyncio.run(soak(Places(server, phone), asked))
        print("the last of the server's log:", *said, sep="\n  ")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
