"""Files that were cut, never finished, or have something else behind them: read to the end, or refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import read_audio, read_header
from moshi_agent.audio.framing import Samples
from moshi_agent.errors import AudioError

SAMPLES = 48_000
PROMISES = "truncated: its header promises more"

CONTAINERS = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
TELL_SIZES = ("wav", "rf64", "w64", "caf", "aiff", "au")
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<4I", 2000, 32, 0, 1 << 31) + bytes(8)
BEHIND = {
    "id3v1": ID3V1,
    "ape": APE,
    "zeros": bytes(5000),
    "random": np.random.default_rng(0).bytes(5000),
    "text": b"no audio at all\n" * 100,
    "one byte": b"\0",
}


@pytest.fixture(scope="module")
def sound() -> Samples:
    """Two seconds of a tone that comes and goes, over a little noise, [N] at 24 kHz."""
    time_s = np.arange(SAMPLES) / 24_000
    noise = np.random.default_rng(0).standard_normal(SAMPLES)
    tone = 0.4 * np.sin(2 * np.pi * 440 * time_s) * np.sin(3 * time_s) ** 2
    return (tone + 0.01 * noise).astype(np.float32)


@pytest.fixture
def written(tmp_path: Path, sound: Samples) -> Callable[[str], bytes]:
    """Writes the sound in a container, and returns the file's bytes."""

    def write(name: str) -> bytes:
        container, subtype = CONTAINERS[name]
        sf.write(tmp_path / "whole", sound, 24_000, format=container, subtype=subtype)
        return (tmp_path / "whole").read_bytes()

    return write


def _is_whole(path: Path, data: bytes, sound: Samples) -> bool:
    path.write_bytes(data)
    heard = read_audio(path)
    assert read_header(path).duration_s == pytest.approx(len(heard) / 24_000)
    return len(heard) == SAMPLES and float(np.corrcoef(heard, sound)[0, 1]) > 0.98


def _put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize("name", [*TELL_SIZES, "ogg", "opus"])
@pytest.mark.parametrize("missing", [1, 100, 24_000])
def test_a_cut_file_whose_header_tells_its_length_is_called_truncated(
    tmp_path: Path, written: Callable[[str], bytes], name: str, missing: int
) -> None:
    data = written(name)
    path = tmp_path / f"cut.{name}"
    path.write_bytes(data[: -min(missing, len(data) // 2)])
    with pytest.raises(AudioError, match=PROMISES):
        read_audio(path)


@pytest.mark.parametrize("missing", [1, 100, 24_000])
def test_a_cut_flac_is_refused(tmp_path: Path, written: Callable[[str], bytes], missing: int) -> None:
    path = tmp_path / "cut.flac"
    path.write_bytes(written("flac")[:-missing])
    with pytest.raises(AudioError, match=r"cut\.flac is damaged or truncated"):
        read_audio(path)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("behind", BEHIND)
def test_what_stands_behind_the_audio_is_no_audio(
    tmp_path: Path, written: Callable[[str], bytes], sound: Samples, name: str, behind: str
) -> None:
    assert _is_whole(tmp_path / f"tagged.{name}", written(name) + BEHIND[behind], sound)


def _sizes(name: str, data: bytes, size: int) -> bytes:
    """The file as a recorder leaves it that never came to fill in the sizes, and wrote this there."""
    short, long = size & 0xFFFF_FFFF, struct.pack("<Q", size)
    match name:
        case "wav":
            return _put(_put(data, 4, struct.pack("<I", short)), 40, struct.pack("<I", short))
        case "rf64":
            return _put(data, data.index(b"ds64") + 8, 3 * long)
        case "w64":
            return _put(_put(data, 16, long), data.index(b"data") + 16, long)
        case "caf":
            return _put(data, data.index(b"data") + 4, struct.pack(">Q", size))
        case "aiff":
            chunk = _put(data, data.index(b"SSND") + 4, struct.pack(">I", short))
            frames = _put(chunk, data.index(b"COMM") + 10, struct.pack(">I", short))
            return _put(frames, 4, struct.pack(">I", short))
        case _:
            return _put(data, 8, struct.pack(">I", short))


@pytest.mark.parametrize("name", TELL_SIZES)
@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63 - 1, 2**63 + 2**31 - 1])
def test_sizes_that_were_never_filled_in_mean_all_there_is(
    tmp_path: Path, written: Callable[[str], bytes], sound: Samples, name: str, size: int
) -> None:
    assert _is_whole(tmp_path / f"killed.{name}", _sizes(name, written(name), size), sound)


@pytest.mark.parametrize("name", TELL_SIZES)
def test_a_recording_that_was_killed_is_read_as_far_as_it_goes(
    tmp_path: Path, written: Callable[[str], bytes], sound: Samples, name: str
) -> None:
    path = tmp_path / f"killed.{name}"
    path.write_bytes(_sizes(name, written(name), 0)[:-48_000])
    heard = read_audio(path)
    assert len(heard) == SAMPLES - 24_000
    assert np.abs(heard - sound[: len(heard)]).max() < 1e-4


def test_rf64_by_its_other_name_is_read(
    tmp_path: Path, written: Callable[[str], bytes], sound: Samples
) -> None:
    data = _put(written("rf64"), 0, b"BW64")
    assert _is_whole(tmp_path / "a.bw64", data, sound)
    assert _is_whole(tmp_path / "b.bw64", _sizes("rf64", data, 0), sound)
    other_count = _put(data, data.index(b"ds64") + 24, bytes(8))  # FFmpeg leaves the number of samples out
    assert _is_whole(tmp_path / "c.bw64", other_count, sound)


@pytest.mark.parametrize("name", ["ogg", "opus"])
@pytest.mark.parametrize("behind", ["id3v1", "ape", "zeros", "random"])
def test_a_live_ogg_stream_with_something_behind_it_is_read_to_its_last_page(
    tmp_path: Path, written: Callable[[str], bytes], name: str, behind: str
) -> None:
    """A live stream has no last page: nothing tells that anything is missing."""
    data = written(name)
    live = data[: data.rindex(b"OggS")]
    alone, tagged = tmp_path / f"live.{name}", tmp_path / f"tagged.{name}"
    alone.write_bytes(live)
    tagged.write_bytes(live + BEHIND[behind])
    assert np.array_equal(read_audio(tagged), read_audio(alone))
    assert len(read_audio(alone)) > SAMPLES / 2


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_tagged_ogg_recordings_that_were_joined_are_read_one_after_the_other(
    tmp_path: Path, written: Callable[[str], bytes], name: str
) -> None:
    path = tmp_path / f"joined.{name}"
    path.write_bytes((written(name) + ID3V1) * 2)
    assert 0 <= len(read_audio(path)) - 2 * SAMPLES <= 256


@pytest.mark.parametrize("name", ["ogg", "opus", "flac"])
@pytest.mark.parametrize("length", [1, 2000, 1_000_000])
def test_a_hole_in_compressed_audio_is_damage(
    tmp_path: Path, written: Callable[[str], bytes], name: str, length: int
) -> None:
    """What was overwritten is not left out as if it had never been: in the middle, or all to the end."""
    data = written(name)
    middle = len(data) // 2
    path = tmp_path / f"hole.{name}"
    hole = bytes(byte ^ 0xFF for byte in data[middle : middle + length])
    path.write_bytes(data[:middle] + hole + data[middle + length :])
    with pytest.raises(AudioError, match=r"hole\.\w+ is damaged"):
        read_audio(path)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_damaged_header_is_refused_by_name_or_read(
    tmp_path: Path, written: Callable[[str], bytes], name: str
) -> None:
    data, draw = written(name), np.random.default_rng(0)
    path = tmp_path / f"damaged.{name}"
    for _ in range(60):
        damaged = bytearray(data)
        for at in draw.integers(0, 120, 3):
            damaged[at] = draw.integers(256)
        path.write_bytes(damaged)
        try:
            assert len(read_audio(path)) > 0
        except AudioError as error:
            assert path.name in str(error)


@pytest.mark.parametrize("fragments", [False, True])
def test_an_mp4_that_was_cut_is_truncated_unless_it_was_recorded_in_fragments(
    tmp_path: Path, sound: Samples, fragments: bool
) -> None:
    path = tmp_path / "phone.m4a"
    in_fragments = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}
    options = in_fragments if fragments else {"movflags": "faststart"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("aac", rate=24_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.sample_rate = 24_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if fragments:
        assert len(read_audio(path)) > SAMPLES / 4
    else:
        with pytest.raises(AudioError, match=PROMISES):
            read_audio(path)
