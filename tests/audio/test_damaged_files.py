"""Files that were cut, never finished, or have something else behind them: read to the end, or refused."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import read_audio, read_header, read_piece
from moshi_agent.audio.framing import Samples
from moshi_agent.errors import AudioError

SAMPLES = 48_000
PACKET_SAMPLES = 1024  # where the codec leaves that open
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


@pytest.mark.parametrize("between", [b"", ID3V1, b"ID3\x04\0\0\0\0\0\x14" + bytes(20), bytes(5000)])
def test_flac_recordings_that_were_joined_are_read_one_after_the_other(
    tmp_path: Path, written: Callable[[str], bytes], sound: Samples, between: bytes
) -> None:
    path = tmp_path / "joined.flac"
    path.write_bytes(written("flac") + between + written("flac") + between + written("flac"))
    heard = read_audio(path)
    assert np.abs(heard - np.tile(sound, 3)).max() < 1e-4
    assert read_header(path).duration_s == 6.0
    for start_s in (0.0, 1.5, 2.0, 3.5, 4.5, 5.9, 6.5):
        start = round(24_000 * start_s)
        assert np.array_equal(read_piece(path, start_s, 3.0), heard[start : start + 72_000])


def test_joined_flac_whose_lengths_were_never_filled_in_is_read_to_its_end(
    tmp_path: Path, written: Callable[[str], bytes]
) -> None:
    data = written("flac")
    live = _put(data, 21, bytes([data[21] & 0xF0, 0, 0, 0, 0]))
    for name, joined in (("live", live + live), ("one live", data + live)):
        (tmp_path / name).write_bytes(joined)
        assert len(read_audio(tmp_path / name)) == 2 * SAMPLES


@pytest.mark.parametrize("missing", [1, 1000, 65_000])
def test_joined_flac_of_which_one_was_cut_is_refused(
    tmp_path: Path, written: Callable[[str], bytes], missing: int
) -> None:
    data, path = written("flac"), tmp_path / "cut.flac"
    cut = data[: -min(missing, len(data) - 60)]
    for joined in (data + cut, cut + data):
        path.write_bytes(joined)
        with pytest.raises(AudioError, match=r"cut\.flac (is damaged or truncated|cannot be read)"):
            read_audio(path)


@pytest.mark.parametrize(("rate_hz", "channels"), [(48_000, 1), (24_000, 2)])
def test_joined_flac_of_different_forms_is_refused_in_words(
    tmp_path: Path, written: Callable[[str], bytes], sound: Samples, rate_hz: int, channels: int
) -> None:
    sf.write(tmp_path / "other.flac", np.stack([sound] * channels, 1), rate_hz)
    path = tmp_path / "joined.flac"
    path.write_bytes(written("flac") + (tmp_path / "other.flac").read_bytes())
    with pytest.raises(AudioError, match="is 2 recordings of different rates or channels"):
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


def _encoded(path: Path, sound: Samples, codec: str, rate_hz: int, options: dict[str, str]) -> bytes:
    """The file that FFmpeg writes, of the kind of the path."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        frame.sample_rate = 24_000
        converter = av.AudioResampler(stream.codec_context.format, "mono", rate_hz, PACKET_SAMPLES)
        for part in [*converter.resample(frame), *converter.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("fragments", [False, True])
def test_an_mp4_that_was_cut_is_truncated_unless_it_was_recorded_in_fragments(
    tmp_path: Path, sound: Samples, fragments: bool
) -> None:
    path = tmp_path / "phone.m4a"
    in_fragments = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}
    options = in_fragments if fragments else {"movflags": "faststart"}
    data = _encoded(path, sound, "aac", 24_000, options)
    path.write_bytes(data[: len(data) // 2])
    if fragments:
        assert len(read_audio(path)) > SAMPLES / 4
    else:
        with pytest.raises(AudioError, match=PROMISES):
            read_audio(path)


MEDIA = {
    "webm": ("libopus", 48_000, b"\x1c\x53\xbb\x6b"),  # behind the audio: its cues
    "mkv": ("aac", 24_000, b"\x1c\x53\xbb\x6b"),
    "avi": ("aac", 24_000, b"idx1"),
}


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("left", [0.4, 0.7, 0.99, 1.0])
def test_media_cut_within_its_audio_is_truncated(
    tmp_path: Path, sound: Samples, name: str, left: float
) -> None:
    codec, rate_hz, behind = MEDIA[name]
    path = tmp_path / f"cut.{name}"
    data = _encoded(path, sound, codec, rate_hz, {"cluster_time_limit": "500"} if name != "avi" else {})
    path.write_bytes(data[: int(left * data.rindex(behind)) - 1])
    with pytest.raises(AudioError, match=PROMISES):
        read_audio(path)


@pytest.mark.parametrize("name", MEDIA)
def test_media_cut_behind_its_audio_is_read(tmp_path: Path, sound: Samples, name: str) -> None:
    codec, rate_hz, behind = MEDIA[name]
    path = tmp_path / f"cut.{name}"
    data = _encoded(path, sound, codec, rate_hz, {})
    whole = read_audio(path)
    assert len(whole) >= SAMPLES
    for cut in (data[:-1], data[: data.rindex(behind) + 8], data + ID3V1):
        path.write_bytes(cut)
        assert np.array_equal(read_audio(path), whole)


def test_webm_cut_between_two_clusters_is_truncated(tmp_path: Path, sound: Samples) -> None:
    path = tmp_path / "cut.webm"
    data = _encoded(path, sound, "libopus", 48_000, {"cluster_time_limit": "500"})
    path.write_bytes(data[: data.rindex(b"\x1f\x43\xb6\x75")])
    with pytest.raises(AudioError, match=PROMISES):
        read_audio(path)


@pytest.mark.parametrize("name", ["webm", "mkv"])
def test_a_live_webm_is_read_as_far_as_it_goes(tmp_path: Path, sound: Samples, name: str) -> None:
    codec, rate_hz, _ = MEDIA[name]
    path = tmp_path / f"live.{name}"
    data = _encoded(path, sound, codec, rate_hz, {"live": "1"})
    path.write_bytes(data[: len(data) // 2])
    assert SAMPLES / 4 < len(read_audio(path)) < SAMPLES


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF])
def test_an_avi_whose_recorder_was_killed_is_read_as_far_as_it_goes(
    tmp_path: Path, sound: Samples, size: int
) -> None:
    path = tmp_path / "killed.avi"
    data = _encoded(path, sound, "pcm_s16le", 24_000, {})
    sizes = struct.pack("<I", size)
    path.write_bytes(_put(_put(data, 4, sizes), data.index(b"movi") - 4, sizes)[: len(data) // 2])
    assert SAMPLES / 4 < len(read_audio(path)) < SAMPLES


def test_a_hole_in_a_webm_is_said(tmp_path: Path, sound: Samples, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "hole.webm"
    data = _encoded(path, sound, "libopus", 48_000, {})
    read_audio(path)
    assert not caplog.messages
    path.write_bytes(_put(data, len(data) // 2, bytes(byte ^ 0xFF for byte in data[len(data) // 2 :][:200])))
    with caplog.at_level(logging.WARNING):
        assert len(read_audio(path)) < SAMPLES
    assert "hole.webm lasts 2.0 s by its header" in caplog.text
