"""Kyutai's messages, without a server."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent import AudioChunk, BotStarted, TextToken
from moshi_agent_adapters.protocols.call_protocol import CallEnd, Hear, Message, ProtocolError, Send
from moshi_agent_adapters.protocols.kyutai import Kind, KyutaiProtocol
from moshi_agent_adapters.protocols.opus import OpusReader, OpusWriter

_AT = {"frame": 3, "media_s": 0.24, "wall_s": 0.0}
_PAGE_DEFAULTS = {
    "text_temperature": "0.7",
    "text_topk": "25",
    "audio_temperature": "0.8",
    "audio_topk": "250",
    "pad_mult": "0",
    "text_seed": "123",
    "audio_seed": "456",
    "repetition_penalty_context": "64",
    "repetition_penalty": "1",
    "text_prompt": "You are a wise teacher.",
    "voice_prompt": "NATF0.pt",
}


def _audio(seconds: float = 1.0) -> bytes:
    writer = OpusWriter()
    return writer.header() + writer.push(np.full(round(seconds * 24_000), 0.1, np.float32))


def _kinds(messages: list[Message]) -> list[int]:
    return [message[0] for message in messages if isinstance(message, bytes)]


def test_a_conversation_begins_with_a_handshake_and_the_head_of_the_stream() -> None:
    handshake, head = KyutaiProtocol({}).began()
    assert handshake == b"\x00"
    assert isinstance(head, bytes)
    assert head[0] == Kind.AUDIO
    assert b"OpusHead" in head


def test_audio_and_text_go_out_and_other_events_do_not() -> None:
    protocol = KyutaiProtocol({})
    reader = OpusReader()
    (head,) = list(protocol.began())[1:]
    list(reader.push(head[1:]))  # pyright: ignore
    chunk = AudioChunk(**_AT, pcm=np.full(1920, 0.1, np.float32), sample_rate=24_000)
    (message,) = protocol.tell(chunk)
    assert sum(len(pcm) for pcm in reader.push(message[1:])) == 2 * 1920  # pyright: ignore
    assert list(protocol.tell(TextToken(**_AT, text=" Grüße", token=5, aligned_frame=4))) == [
        b"\x02" + " Grüße".encode()
    ]
    assert list(protocol.tell(BotStarted(**_AT))) == []


def test_the_first_frame_is_dropped_as_the_peer_drops_it() -> None:
    orders = list(KyutaiProtocol({}).receive(Kind.AUDIO.message(_audio(1.0))))
    assert all(isinstance(order, Hear) for order in orders)
    assert sum(len(order.pcm) for order in orders if isinstance(order, Hear)) == 48_000 - 2 * 1920


def test_a_ping_is_answered_and_what_has_no_meaning_is_ignored() -> None:
    protocol = KyutaiProtocol({})
    assert list(protocol.receive(b"\x06")) == [Send(b"\x06")]
    for message in (
        b"\x00\x00\x00",
        b"\x02hello",
        b"\x03\x01",
        b"\x04{}",
        b"\x07\x01x",
        b"\x08",
        b"\xff" * 9,
    ):
        assert list(protocol.receive(message)) == []


@pytest.mark.parametrize("message", [b"", "text", b"\x01not an Ogg stream", b"\x01" + _audio(0.1)[50:]])
def test_what_is_no_message_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError):
        list(KyutaiProtocol({}).receive(message))


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_do_anything_else(messages: list[bytes]) -> None:
    protocol = KyutaiProtocol({})
    try:
        for message in messages:
            assert all(isinstance(order, Hear | Send) for order in protocol.receive(message))
    except ProtocolError:
        pass


@given(st.data())
def test_a_damaged_stream_is_refused_or_heard(data: st.DataObject) -> None:
    stream = bytearray(_audio(0.3))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        orders = list(KyutaiProtocol({}).receive(b"\x01" + bytes(stream)))
    except ProtocolError:
        return
    assert sum(len(order.pcm) for order in orders if isinstance(order, Hear)) <= 48_000 * 0.3


def test_what_the_pages_ask_for() -> None:
    wanted = KyutaiProtocol(_PAGE_DEFAULTS | {"text_temperature": "0.5"}).wanted
    assert wanted.role == "You are a wise teacher."
    assert wanted.voice == "NATF0.pt"
    assert wanted.seed == 456
    assert wanted.sampling is not None
    assert wanted.sampling.temp_text == 0.5
    assert wanted.sampling.temp == 0.8
    assert wanted.sampling.top_k == 250
    assert wanted.sampling.top_k_text == 25


def test_a_page_on_which_nothing_was_chosen_gets_what_the_checkpoint_advises() -> None:
    assert KyutaiProtocol(_PAGE_DEFAULTS).wanted.sampling is None
    assert KyutaiProtocol({"seed": "-1"}).wanted.seed is None


@pytest.mark.parametrize(
    "query",
    [
        {"text_temperature": "hot"},
        {"audio_temperature": "nan"},
        {"audio_temperature": "-1"},
        {"audio_topk": "1.5"},
        {"audio_topk": "9" * 30},
        {"seed": "²"},
        {"seed": str(2**63)},
    ],
)
def test_numbers_that_are_none_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(ProtocolError, match=next(iter(query))):
        _ = KyutaiProtocol(query).wanted


@given(st.dictionaries(st.sampled_from([*_PAGE_DEFAULTS, "seed"]), st.text(max_size=30)))
def test_no_query_does_anything_else(query: dict[str, str]) -> None:
    try:
        _ = KyutaiProtocol(query).wanted
    except ProtocolError as error:
        assert str(error)


def test_only_kinds_that_the_page_knows_are_sent() -> None:
    protocol = KyutaiProtocol({})
    sent = [*protocol.began(), *protocol.ended(CallEnd("failed", "broken")), *protocol.ended(CallEnd("left"))]
    assert _kinds(sent) == [Kind.HANDSHAKE, Kind.AUDIO, Kind.ERROR]
    assert sent[-1] == b"\x05broken"
