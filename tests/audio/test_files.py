"""Audio files: what is read is what was written, and what is no good is refused."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import (
    AudioWriter,
    audio_blocks,
    read_audio,
    read_channels,
    read_header,
    write_audio,
)
from moshi_agent.errors import AudioError, OutputError

FORMATS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "RF64", "PCM_24"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
]


def _speechlike(rate_hz: int, seconds: float = 2.0) -> np.ndarray:
    """A tone of 440 Hz that comes and goes, over a little noise."""
    time_s = np.arange(round(rate_hz * seconds)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(time_s))
    return (0.4 * np.sin(2 * np.pi * 440 * time_s) * np.sin(3 * time_s) ** 2 + 0.01 * noise).astype(
        np.float32
    )


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
@pytest.mark.parametrize(("rate_hz", "channels"), [(24_000, 1), (48_000, 2)])
def test_a_file_is_read_as_mono_at_the_rate_of_the_model(
    tmp_path: Path, suffix: str, container: str, subtype: str, rate_hz: int, channels: int
) -> None:
    path = tmp_path / f"sound.{suffix}"
    sound = _speechlike(rate_hz)
    sf.write(path, np.stack([sound] * channels, 1), rate_hz, format=container, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 48_000) <= 1
    reference = _speechlike(24_000)
    assert np.corrcoef(samples[:47_000], reference[:47_000])[0, 1] > 0.99


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100])
def test_every_rate_keeps_its_length_and_its_place_in_time(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "sound.wav"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(10 * rate_hz) / rate_hz)
    sf.write(path, tone, rate_hz, subtype="FLOAT")
    samples = read_audio(path)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(240_000) / 24_000)
    assert len(samples) == 240_000
    assert abs(samples - expected)[2_000:-2_000].max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    sf.write(path, np.tile(np.array([[0.5, 0.25, 0.0]]), (100, 1)), 24_000, subtype="FLOAT")
    assert read_audio(path) == pytest.approx(0.25)


def test_channels_can_be_kept_apart_at_another_rate(tmp_path: Path) -> None:
    path = tmp_path / "sound.flac"
    left, right = _speechlike(48_000), 0.5 * _speechlike(48_000)[::-1]
    sf.write(path, np.stack([left, right], 1), 48_000)
    samples = read_channels(path)
    assert samples.shape == (48_000, 2)
    assert samples.mean(axis=1) == pytest.approx(read_audio(path), abs=1e-5)
    for side, source in zip(samples.T, (left, right), strict=True):
        alone = tmp_path / "alone.wav"
        sf.write(alone, source, 48_000, subtype="FLOAT")
        assert side == pytest.approx(read_audio(alone), abs=1e-4)
        assert read_channels(alone).shape == (48_000, 1)


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
def test_a_header_tells_channels_and_length(
    tmp_path: Path, suffix: str, container: str, subtype: str
) -> None:
    path = tmp_path / f"sound.{suffix}"
    sf.write(path, np.stack([_speechlike(48_000)] * 2, 1), 48_000, format=container, subtype=subtype)
    header = read_header(path)
    assert header.channels == 2
    assert header.duration_s == pytest.approx(2.0, abs=0.05)
    path.write_bytes(b"")
    with pytest.raises(AudioError, match="is empty"):
        read_header(path)


def test_a_16_bit_file_is_written_back_bit_by_bit(tmp_path: Path) -> None:
    pcm = np.arange(-32768, 32768, dtype=np.int16)
    sf.write(tmp_path / "in.wav", pcm, 24_000)
    write_audio(tmp_path / "out.wav", read_audio(tmp_path / "in.wav"))
    assert np.array_equal(sf.read(tmp_path / "out.wav", dtype="int16")[0], pcm)


def test_samples_beyond_full_scale_are_clipped_and_do_not_wrap(tmp_path: Path) -> None:
    write_audio(tmp_path / "out.wav", np.array([-2, -1, 0, 1, 2], np.float32))
    assert sf.read(tmp_path / "out.wav", dtype="int16")[0].tolist() == [-32768, -32768, 0, 32767, 32767]


def test_stereo_is_written_left_first_piece_by_piece(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "out.wav", channels=2, sample_rate_hz=48_000) as writer:
        for value in (0.25, 0.5):
            writer.write(np.tile(np.array([[value, -value]], np.float32), (3, 1)))
    samples, rate_hz = sf.read(tmp_path / "out.wav")
    assert rate_hz == 48_000
    assert samples[:, 0].tolist() == [0.25] * 3 + [0.5] * 3
    assert samples[:, 1].tolist() == [-0.25] * 3 + [-0.5] * 3


def _cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(
    tmp_path: Path, suffix: str, container: str, subtype: str, part: float
) -> None:
    path = tmp_path / f"sound.{suffix}"
    sf.write(path, _speechlike(24_000), 24_000, format=container, subtype=subtype)
    _cut(path, part)
    with pytest.raises(AudioError, match=path.name):
        read_audio(path)


def test_a_truncated_wav_file_is_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    sf.write(path, _speechlike(24_000), 24_000)
    _cut(path, 0.999)
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F024])
def test_a_recording_from_a_pipe_that_never_knew_its_length_is_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "sound.wav"
    sf.write(path, _speechlike(24_000), 24_000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", length)
    path.write_bytes(data)
    assert len(read_audio(path)) == 48_000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_that_is_no_number_is_refused_with_its_time(
    tmp_path: Path, value: float, channels: int
) -> None:
    path = tmp_path / "sound.wav"
    samples = np.zeros((300_000, channels), np.float32)
    samples[240_000, -1] = value
    sf.write(path, samples, 24_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"no finite number, 10\.000 s"):
        read_audio(path)


def _text(path: Path) -> None:
    path.write_text("This is a letter, and no sound.\n" * 100)


def _no_samples(path: Path) -> None:
    sf.write(path, np.zeros(0), 24_000)


def _too_short(path: Path) -> None:
    sf.write(path, np.zeros(1), 192_000)


def _absurd_rate(path: Path) -> None:
    sf.write(path, np.zeros(10), 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_text, "cannot be read as audio"),
        (Path.touch, "is empty"),
        (_no_samples, "no audio in it"),
        (_too_short, "less than one sample"),
        (_absurd_rate, "1000 to 768000 Hz"),
        (Path.mkdir, "is no file"),
        (lambda path: None, "there is no file"),
        (lambda path: path.symlink_to("/dev/null"), "is no file"),
    ],
)
def test_what_is_no_audio_file_is_refused_and_named(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "sound.wav"
    make(path)
    with pytest.raises(AudioError, match=message) as refusal:
        read_audio(path)
    assert path.name in str(refusal.value)


def test_a_name_that_the_file_system_refuses_is_an_audio_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="File name too long"):
        read_audio(tmp_path / ("a" * 300))


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sound.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="no header"):
        read_audio(tmp_path / "sound.raw")


def test_an_error_while_writing_leaves_nothing_and_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.write_text("what was here before")
    with pytest.raises(KeyboardInterrupt), AudioWriter(path) as writer:
        writer.write(np.zeros(1920, np.float32))
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.wav"]
    assert path.read_text() == "what was here before"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(AudioError, match="NaN or infinity"):
        write_audio(tmp_path / "out.wav", np.full(10, value, np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_of_another_shape_are_not_written(tmp_path: Path, channels: int) -> None:
    with pytest.raises(AudioError, match=r"\[10, 3\]"), AudioWriter(tmp_path / "out.wav", channels) as writer:
        writer.write(np.zeros((10, 3), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    program = """if True:
        import resource, signal, sys
        import numpy as np
        from moshi_agent.audio.files import write_audio
        from moshi_agent.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            write_audio(sys.argv[1], np.zeros(48_000, np.float32))
        except OutputError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out.wav")], capture_output=True, text=True, check=True
    )
    assert "out.wav" in run.stdout
    assert "File too large" in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [("missing/out.wav", "there is no folder"), (".", "it is a folder"), ("null", "a device or a pipe")],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, target: str, message: str
) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OutputError, match=message), AudioWriter(tmp_path / target):
        pytest.fail("the block was entered")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"), AudioWriter(tmp_path / "out.wav"):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("rate_hz", [8_000, 24_000])
def test_a_long_file_is_read_in_blocks_that_make_up_the_whole(tmp_path: Path, rate_hz: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (60 * rate_hz, 2)).astype(np.float32)
    sf.write(tmp_path / "long.wav", samples, rate_hz, subtype="FLOAT")
    blocks = list(audio_blocks(tmp_path / "long.wav"))
    assert max(map(len, blocks)) * rate_hz <= 2**17 * 24_000 + 24_000 * 1000
    assert np.array_equal(np.concatenate(blocks), read_audio(tmp_path / "long.wav"))


def test_a_file_that_breaks_off_gives_the_blocks_before(tmp_path: Path) -> None:
    samples = np.full(2**18, 0.1, np.float32)
    samples[-1] = np.nan
    sf.write(tmp_path / "long.wav", samples, 24_000, subtype="FLOAT")
    blocks = audio_blocks(tmp_path / "long.wav")
    assert len(next(blocks)) == 2**17
    with pytest.raises(AudioError, match=r"no finite number, 10\.9"):
        next(blocks)
