"""Kyutai's binary websocket protocol, as `moshi.client` and Kyutai's web page speak it.

A message is one byte that says its kind, and a payload:

    0 handshake     from the server: the conversation begins
    1 audio         a piece of one continuous Ogg/Opus stream, each way
    2 text          a piece of the inner monologue, UTF-8
    3 control       start, end of turn, pause, restart: taken and ignored, as the peers do
    4 metadata      JSON, ignored from a client; {"note": "..."} from the server says what has no effect, and
                    {"type": "session.moved", "resume": TOKEN} that the call goes on for who connects again
                    with `resume=TOKEN` in the query. Only a client with `moves=1` there is told so
    5 error         UTF-8
    6 ping          answered with a ping
    7 coloured text a colour's byte before the text, ignored

Kinds that are none of these are ignored from a client, and never sent: Kyutai's page fails on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import ClassVar

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ
from moshi_agent.config import SamplingConfig
from moshi_agent.errors import AudioError
from moshi_agent.events import AudioChunk, Event, TextToken
from moshi_agent_adapters.protocols.call_protocol import (
    CallEnd,
    Hear,
    Message,
    Order,
    ProtocolError,
    Send,
    Wanted,
)
from moshi_agent_adapters.protocols.opus import DECODED_RATE_HZ, OpusReader, OpusWriter

_MOST_TEMPERATURE = 5.0
_MOST_CHOICES = 100_000
# What Kyutai's page sends where nobody has chosen anything: then the checkpoint's own advice is better.
_UNCHOSEN = {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25}


class Kind(IntEnum):
    """Names the first byte of a message."""

    HANDSHAKE = 0
    AUDIO = 1
    TEXT = 2
    CONTROL = 3
    METADATA = 4
    ERROR = 5
    PING = 6
    COLOURED_TEXT = 7

    def message(self, payload: bytes = b"") -> bytes:
        """Makes a message of this kind."""
        return bytes([self]) + payload


class KyutaiProtocol:
    """Translates one call over `/api/chat`. The query of its URL holds the client's wishes."""

    name: ClassVar[str] = "kyutai"

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query
        self._writer = OpusWriter()
        self._reader = OpusReader()
        # The peer drops the first frame that it hears: to its model it would lie in the past.
        self._to_drop = 0 if "resume" in query else FRAME_SAMPLES * DECODED_RATE_HZ // SAMPLE_RATE_HZ

    @property
    def wanted(self) -> Wanted:
        """Reads what the query asks for. Raises ProtocolError for a bad number, or one out of range."""
        return _wanted(self._query)

    def connected(self) -> Iterator[Message]:
        """Returns nothing: the handshake waits for the conversation."""
        yield from ()

    def began(self) -> Iterator[Message]:
        """Returns the handshake, and the head of the audio stream."""
        yield Kind.HANDSHAKE.message()
        yield Kind.AUDIO.message(self._writer.header())

    def left_out(self, reason: str) -> Iterator[Message]:
        """Returns it as metadata, which the peers' clients do not show."""
        yield Kind.METADATA.message(json.dumps({"note": reason}).encode())

    def receive(self, message: Message) -> Iterator[Order]:
        """Takes a message of the client. Raises ProtocolError."""
        if isinstance(message, str):
            raise ProtocolError("a text message; accepted: binary messages")
        if not message:
            raise ProtocolError("an empty message; accepted: a kind and a payload")
        if message[0] == Kind.PING:
            yield Send(Kind.PING.message())
        if message[0] == Kind.AUDIO:
            yield from self._hear(message[1:])

    def _hear(self, payload: bytes) -> Iterator[Hear]:
        try:
            for pcm in self._reader.push(payload):
                dropped = min(self._to_drop, len(pcm))
                self._to_drop -= dropped
                if dropped < len(pcm):
                    yield Hear(pcm[dropped:], DECODED_RATE_HZ)
        except AudioError as error:
            raise ProtocolError(str(error), is_fatal=True) from error
        if (damage := self._reader.take_damage()) is not None:
            raise ProtocolError(damage, "invalid_audio")

    def refused(self, error: ProtocolError) -> Iterator[Message]:
        """An error, which the peers' clients show and go on."""
        yield Kind.ERROR.message(str(error).encode())

    def tell(self, event: Event) -> Iterator[Message]:
        """Returns what the client is told of an event."""
        if isinstance(event, AudioChunk):
            pages = self._writer.push(event.pcm)
            if pages:
                yield Kind.AUDIO.message(pages)
        elif isinstance(event, TextToken):
            yield Kind.TEXT.message(event.text.encode())

    def ended(self, end: CallEnd) -> Iterator[Message]:
        """Returns an error, if the end is one, or where the call goes on."""
        if end.kind == "moved":
            moved = {"type": "session.moved", "resume": end.code}
            yield Kind.METADATA.message(json.dumps(moved).encode())
        elif not end.is_good:
            yield Kind.ERROR.message(end.text.encode())


def _wanted(query: Mapping[str, str]) -> Wanted:
    """What the query asks for, under the names that Kyutai's and PersonaPlex's pages use."""
    sampling = {
        "temp": _number(query, "audio_temperature", _MOST_TEMPERATURE),
        "temp_text": _number(query, "text_temperature", _MOST_TEMPERATURE),
        "top_k": _whole_number(query, "audio_topk", _MOST_CHOICES),
        "top_k_text": _whole_number(query, "text_topk", _MOST_CHOICES),
    }
    given = {name: value for name, value in sampling.items() if value is not None}
    seed = _whole_number(query, "seed", 2**63 - 1)
    if seed is None:
        seed = _whole_number(query, "audio_seed", 2**63 - 1)
    is_chosen = given and given != _UNCHOSEN
    return Wanted(
        role=query.get("text_prompt", "").strip() or None,
        voice=query.get("voice_prompt") or None,
        sampling=SamplingConfig(**given) if is_chosen else None,  # pyright: ignore[reportArgumentType]
        seed=seed,
        can_move=query.get("moves") == "1",
        resume=query.get("resume"),
    )


def _number(query: Mapping[str, str], name: str, most: float) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise ProtocolError(f"{name}={text[:40]!r}; accepted: 0 to {most:g}")
    return number


def _whole_number(query: Mapping[str, str], name: str, most: int) -> int | None:
    """None where it is not given, or -1: the pages say so for a seed that is to be drawn."""
    text = query.get(name)
    if text is None or text == "-1":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise ProtocolError(f"{name}={text[:40]!r}; accepted: a whole number of 0 to {most}")
    return int(text)
