"""The bot's packets: when each is due, how many may wait, and what Opus makes of them."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

pytest.importorskip("aiortc")

import av
from aiortc.mediastreams import MediaStreamError
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import AudioChunk
from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions
from moshi_agent_adapters.webrtc.output_track import OpusStream, OutputTrack, Pacer

CHUNK = np.arange(1920, dtype=np.float32)
PACKET = 480


def chunk(pcm: np.ndarray) -> AudioChunk:
    return AudioChunk(frame=0, media_s=0.0, wall_s=0.0, pcm=pcm, sample_rate=24_000)


def due_times(pacer: Pacer, until: float) -> list[float]:
    """Takes all that is due up to then, and when it was."""
    times: list[float] = []
    while pacer.due_at is not None and pacer.due_at <= until:
        times.append(pacer.due_at)
        pacer.pop()
    return times


def test_the_packets_of_a_chunk_are_due_one_after_the_other() -> None:
    pacer = Pacer()
    pacer.push(CHUNK, 10.0)
    assert due_times(pacer, 11.0) == pytest.approx([10.0, 10.02, 10.04, 10.06])


def test_a_chunk_that_follows_too_soon_sends_the_rest_of_the_last_one_at_once() -> None:
    pacer = Pacer()
    pacer.push(CHUNK, 10.0)
    assert due_times(pacer, 10.03) == pytest.approx([10.0, 10.02])
    pacer.push(CHUNK, 10.03)
    assert due_times(pacer, 11.0) == pytest.approx([10.03, 10.03, 10.03, 10.05, 10.07, 10.09])


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=40))
def test_after_any_stall_no_more_waits_than_one_chunk(gaps: list[float]) -> None:
    pacer, now = Pacer(), 0.0
    for gap in gaps:
        now += gap
        due_times(pacer, now)
        pacer.push(CHUNK, now)
        due_times(pacer, now)
        assert pacer.queued_s <= 0.0600001


def test_what_nobody_takes_is_dropped_from_the_front() -> None:
    pacer = Pacer()
    for at in range(100):
        pacer.push(np.full(1920, at, np.float32), at)
    assert pacer.queued_s == pytest.approx(1.0) and pacer.dropped_packets == 350
    assert pacer.pop()[0] == 87.0


def test_chunks_of_odd_sizes_lose_nothing() -> None:
    pacer = Pacer()
    for start in range(0, 1920, 700):
        pacer.push(CHUNK[start : start + 700], 0.0)
    assert np.array_equal(np.concatenate([pacer.pop() for _ in range(4)]), CHUNK)


def test_opus_carries_speech_and_its_time() -> None:
    speech = read_audio(sample_questions()[0].path)
    stream = OpusStream(bit_rate=32_000, expected_loss_percent=10)
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout, decoder.format = 48_000, "mono", "s16"
    decoded, times = [], []
    for at in range(0, len(speech) - PACKET, PACKET):
        packet = stream.encode(speech[at : at + PACKET])
        times.append(packet.pts)
        decoded += [frame.to_ndarray()[0] / 32768 for frame in decoder.decode(av.Packet(bytes(packet)))]
    assert times == list(range(0, 960 * len(times), 960))
    heard = np.concatenate(decoded)
    said = read_audio(sample_questions()[0].path, 48_000)[: len(heard)]
    alike = [float(np.corrcoef(heard[late:], said[: len(heard) - late])[0, 1]) for late in range(0, 800, 8)]
    assert max(alike) > 0.9
    assert 8 * np.argmax(alike) <= 0.0075 * 48_000  # its look-ahead, of 6.5 ms


@pytest.mark.real_time
def test_a_track_gives_packets_in_time_and_ends() -> None:
    async def listen() -> None:
        track = OutputTrack(32_000, 0)
        waiting = asyncio.ensure_future(track.recv())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        track.push(chunk(np.zeros(1920, np.float32)))
        started = time.monotonic()
        await waiting
        for _ in range(3):
            await track.recv()
        assert time.monotonic() - started >= 0.055
        waiting = asyncio.ensure_future(track.recv())
        await asyncio.sleep(0.01)
        track.stop()
        with pytest.raises(MediaStreamError):
            await waiting

    asyncio.run(asyncio.wait_for(listen(), 20))
