"""The audio stream of Kyutai's protocol: what other implementations read and write, without delay."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("av", reason="needs the extra `server`: pip install moshi-agent[server]")

import av

from moshi_agent import AudioError
from moshi_agent_adapters.protocols.opus import OpusReader, OpusWriter


def _tone(seconds: float, silence_s: float = 0.5) -> NDArray[np.float32]:
    """Silence, and then 440 Hz, [N] at 24 kHz."""
    t = np.arange(round(seconds * 24_000)) / 24_000
    return np.where(t < silence_s, 0, 0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def _encoded(samples: NDArray[np.float32], chunk: int = 1920) -> bytes:
    writer = OpusWriter()
    pieces = [writer.push(samples[i : i + chunk]) for i in range(0, len(samples), chunk)]
    return writer.header() + b"".join(pieces)


def _decoded(data: bytes, size: int = 333) -> NDArray[np.int16]:
    reader = OpusReader()
    pieces = [pcm for i in range(0, len(data), size) for pcm in reader.push(data[i : i + size])]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int16)


def test_a_tone_goes_there_and_back_with_less_than_3_ms_of_delay() -> None:
    decoded = _decoded(_encoded(_tone(1.0)))
    assert len(decoded) == 48_000
    onset = int(np.argmax(np.abs(decoded) > 3000))
    assert 24_000 <= onset < 24_000 + 48 * 3
    assert np.abs(decoded[:23_000]).max() <= 1
    assert np.sqrt(np.mean(np.square(decoded[30_000:] / 32768.0))) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_every_frame_comes_out_at_once() -> None:
    writer = OpusWriter()
    pages = [writer.push(_tone(0.08)) for _ in range(5)]
    assert all(page.startswith(b"OggS") for page in pages)


def test_ffmpeg_reads_what_is_written() -> None:
    with av.open(io.BytesIO(_encoded(_tone(1.0)))) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
        assert file.format.name == "ogg"
    heard = np.concatenate(frames, axis=1)[0]
    assert len(heard) == pytest.approx(48_000, abs=500)
    assert 23_900 <= int(np.argmax(np.abs(heard) > 0.1)) < 24_100


@pytest.mark.parametrize("channels", [1, 2])
def test_what_libsndfile_writes_is_read(channels: int) -> None:
    file = io.BytesIO()
    sf.write(file, np.repeat(_tone(1.0)[:, None], channels, axis=1), 24_000, format="OGG", subtype="OPUS")
    decoded = _decoded(file.getvalue())
    assert np.abs(decoded[24_000 - 2000 :][:1000]).max() < 1000  # the tone begins in the middle
    assert np.abs(decoded[32_000:44_000]).max() > 12_000


def test_the_peers_library_reads_and_writes_the_same_stream() -> None:
    sphn = pytest.importorskip("sphn", reason="Kyutai's Opus library is not installed")
    tone = _tone(1.0)
    reader = sphn.OpusStreamReader(24_000)
    heard = np.concatenate([reader.append_bytes(_encoded(tone)), np.zeros(1, np.float32)])
    assert 12_000 <= int(np.argmax(np.abs(heard) > 0.1)) < 12_000 + 24 * 3
    writer = sphn.OpusStreamWriter(24_000)
    decoded = _decoded(b"".join(writer.append_pcm(tone[i : i + 1920]) for i in range(0, len(tone), 1920)))
    assert len(decoded) == 48_000
    assert 24_000 <= int(np.argmax(np.abs(decoded) > 3000)) < 24_000 + 48 * 8


def test_lasting_silence_decodes_to_silence_and_speech_after_it_to_speech() -> None:
    samples = np.concatenate([_tone(1.0), np.zeros(72_000, np.float32), _tone(0.5, silence_s=0)])
    decoded = _decoded(_encoded(samples)).astype(np.float64) / 32768
    assert np.abs(decoded[60_000:190_000]).max() < 0.001
    assert np.sqrt(np.mean(np.square(decoded[200_000:212_000]))) == pytest.approx(0.35, rel=0.1)


@given(st.integers(1, 5000))
def test_the_size_of_the_chunks_changes_nothing(chunk: int) -> None:
    tone = _tone(0.3, silence_s=0.1)
    assert np.array_equal(_decoded(_encoded(tone, chunk)), _decoded(_encoded(tone)))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_opus_are_refused_or_waited_for(data: bytes) -> None:
    with suppress(AudioError):
        assert not len(_decoded(data))


@given(st.binary(min_size=1, max_size=300))
def test_a_packet_of_noise_is_refused_or_decoded_to_something_short(data: bytes) -> None:
    from moshi_agent_adapters.protocols.ogg import OggWriter

    ogg = OggWriter(1)
    head = _encoded(_tone(0.1))
    packets = OpusReader()
    list(packets.push(head))
    try:
        samples = sum(len(pcm) for pcm in packets.push(ogg.page([data], 0)))
    except AudioError:
        return
    assert samples <= 48 * 120


def test_a_damaged_packet_or_page_is_left_out_and_told_of() -> None:
    from moshi_agent_adapters.protocols.ogg import OggWriter

    writer, reader, ogg = OpusWriter(), OpusReader(), OggWriter(1)
    list(reader.push(writer.header() + writer.push(_tone(0.2))))
    assert reader.take_damage() is None
    assert list(reader.push(ogg.page([b"\x03\x00"], 0))) == []  # a packet of no frames
    told = reader.take_damage()
    assert told is not None and "no Opus" in told and reader.take_damage() is None
    page = bytearray(writer.push(_tone(0.08)))
    page[-1] ^= 255
    assert list(reader.push(bytes(page))) == []
    told = reader.take_damage()
    assert told is not None and "checksum" in told and reader.take_damage() is None
    assert sum(map(len, reader.push(writer.push(_tone(0.2))))) == 9600


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RIFF" + bytes(60), "no Ogg stream"),
        (None, "OpusHead"),
    ],
)
def test_an_error_says_what_is_wrong(data: bytes | None, message: str) -> None:
    from moshi_agent_adapters.protocols.ogg import OggWriter

    with pytest.raises(AudioError, match=message):
        _decoded(OggWriter(1).page([b"\x01vorbis"], 0) if data is None else data)


def test_a_call_may_have_many_streams_with_audio_and_few_without() -> None:
    """Whoever switches a microphone off and on begins another; a page can begin 255."""
    some, none = _encoded(_tone(0.2)), OpusWriter().header()
    assert len(_decoded(some * 30 + none * 10 + some)) == 31 * 9600
    with pytest.raises(AudioError, match="more than 20 Opus streams"):
        _decoded(none * 30)


def test_more_channels_than_two_are_refused() -> None:
    head = bytearray(_encoded(_tone(0.1))[28:47])
    assert head.startswith(b"OpusHead")
    head[9] = 6
    from moshi_agent_adapters.protocols.ogg import OggWriter

    with pytest.raises(AudioError, match="mono or stereo"):
        _decoded(OggWriter(1).page([bytes(head)], 0))
