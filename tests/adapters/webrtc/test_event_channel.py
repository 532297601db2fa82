"""The data channel under callers who send too much, or what no channel can send."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("aiortc")

from moshi_agent_adapters.webrtc.event_channel import EventChannel


class Wire:
    """In the place of aiortc's channel: takes text that can be sent, as UTF-8."""

    readyState = "open"  # noqa: N815
    bufferedAmount = 0  # noqa: N815

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self._hear: Any = None

    def on(self, event: str, hear: Any) -> None:
        assert event == "message"
        self._hear = hear

    def send(self, text: str) -> None:
        self.sent.append(json.loads(text.encode("utf-8")))

    def hear(self, message: Any) -> None:
        self._hear(message if isinstance(message, str | bytes) else json.dumps(message))


class Call:
    """An event channel on a clock of the test's, and how often it has reported a flood."""

    def __init__(self, **limits: float) -> None:
        self.now, self.floods = 0.0, 0
        self.wire = Wire()
        self.channel = EventChannel(**limits, on_flood=self._flood, clock=lambda: self.now)
        self.channel.attach(self.wire)  # type: ignore[arg-type]

    def _flood(self) -> None:
        self.floods += 1

    @property
    def codes(self) -> list[str]:
        return [message["code"] for message in self.wire.sent if message["type"] == "error"]

    @property
    def pongs(self) -> int:
        return sum(message["type"] == "pong" for message in self.wire.sent)


def test_more_messages_than_may_be_are_refused_with_one_answer_until_time_has_passed() -> None:
    call = Call(messages_per_second=10)
    for _ in range(100):
        call.wire.hear({"type": "ping"})
    assert 45 <= call.pongs <= 50 and call.codes == ["too_many_messages"] and not call.floods
    call.now = 1.0
    pongs = call.pongs
    call.wire.hear({"type": "ping", "id": 5})
    assert call.pongs == pongs + 1
    call.now = 100.0
    for _ in range(100):
        call.wire.hear({"type": "ping"})
    assert call.codes == ["too_many_messages"] * 2


def test_a_steady_caller_within_the_rate_is_never_refused() -> None:
    call = Call(messages_per_second=10)
    for _ in range(1000):
        call.now += 0.11
        call.wire.hear({"type": "ping"})
    assert call.pongs == 1000 and not call.codes


def test_a_flood_is_reported_and_long_messages_count_as_several() -> None:
    call = Call(messages_per_second=10)
    for _ in range(499):
        call.wire.hear("")
    assert not call.floods
    for _ in range(10):
        call.wire.hear("")
    assert call.floods
    call = Call(messages_per_second=10)
    for _ in range(40):
        call.wire.hear("x" * 16_000)
    assert call.floods


def test_channels_of_one_call_share_what_may_be_sent() -> None:
    call = Call(messages_per_second=10)
    other = Wire()
    call.channel.attach(other)  # type: ignore[arg-type]
    for _ in range(100):
        call.wire.hear({"type": "ping"})
        other.hear({"type": "ping"})
    pongs = sum(message["type"] == "pong" for message in other.sent)  # answered on the latest
    assert 45 <= pongs <= 50 and not call.pongs


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "ping", "id": "\\ud800"}',
        '{"type": "\\udfff"}',
        {"type": "ping", "id": "\u20ac\U0001f600"},
        '{"type": "ping", "id": ' + "[" * 993 + "]" * 993 + "}",
        '{"type": "ping", "id": ' + "[" * 960 + "]" * 960 + "}",
        "[" * 16_000,
        b"\xff",
        "x" * 20_000,
        '{"type": "say", "text": "\\ud800"}',
    ],
    ids=lambda message: str(message)[:32],
)
def test_whatever_comes_is_answered_and_the_channel_goes_on(message: Any) -> None:
    call = Call()
    call.wire.hear(message)
    assert len(call.wire.sent) == 1
    call.wire.hear({"type": "ping", "id": 7})
    assert call.wire.sent[-1] == {"type": "pong", "id": 7}


def test_sentences_are_bounded_in_length_and_number_before_the_engine_sees_them() -> None:
    said: list[str] = []

    class Session:
        def say(self, text: str) -> Future[None]:
            said.append(text)
            taken: Future[None] = Future()
            taken.set_result(None)
            return taken

    async def talk() -> Call:
        call = Call(says_per_second=2)
        call.channel.serve(Session())  # type: ignore[arg-type]
        call.wire.hear({"type": "say", "text": "a" * 501})
        assert "501 characters; accepted: at most 500" in call.wire.sent[-1]["message"] and not said
        for _ in range(30):
            call.wire.hear({"type": "say", "text": "a" * 500})
        return call

    call = asyncio.run(talk())
    assert len(said) == 10 and call.codes == ["bad_request"] + ["too_many_messages"] * 20
    call.wire.hear({"type": "ping"})
    assert call.pongs == 1
