"""Files are judged by what is in them: those of phones and browsers, and those whose headers are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import audio_blocks, read_audio, read_header, read_piece
from moshi_agent.audio.framing import Samples
from moshi_agent.errors import AudioError
from moshi_agent.questions import sample_questions
from moshi_agent_adapters.protocols.opus import OpusWriter

MP3_DELAY = 2 * 1152  # samples that an mp3 without a header may gain at its ends


@pytest.fixture(scope="module")
def question() -> Samples:
    """A spoken question, [N] at 24 kHz."""
    return read_audio(sample_questions()[0].path)


def _encode(
    path: Path, codec: str, samples: Samples, rate_hz: int = 24_000, form: str | None = None, **options: str
) -> Path:
    """Writes samples, [N] at 24 kHz, by FFmpeg; `options` are the container's."""
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        if codec == "libmp3lame":
            stream.options["qscale"] = "4"  # a variable bit rate
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 24_000
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate_hz, context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def _like(heard: Samples, said: Samples) -> bool:
    """Whether a recording holds `said` from its beginning on, but for a delay of the codec's."""
    best = max(
        float(np.corrcoef(heard[delay : delay + 20_000], said[:20_000])[0, 1])
        for delay in range(0, min(MP3_DELAY, len(heard) - 20_000), 4)
    )
    return best > 0.9


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "form"),
    [
        ("phone.m4a", "aac", 24_000, None),
        ("phone.mp4", "aac", 48_000, None),
        ("browser.webm", "libopus", 48_000, None),
        ("radio.aac", "aac", 24_000, "adts"),
    ],
)
def test_what_phones_and_browsers_record_is_read(
    tmp_path: Path, question: Samples, name: str, codec: str, rate_hz: int, form: str | None
) -> None:
    path = _encode(tmp_path / name, codec, question, rate_hz, form)
    heard = read_audio(path)
    assert abs(len(heard) - len(question)) < 3 * MP3_DELAY
    assert _like(heard, question)
    assert read_header(path).duration_s == pytest.approx(len(heard) / 24_000, abs=1e-4)


def test_a_piece_of_a_browsers_recording_is_the_same_as_in_the_whole(
    tmp_path: Path, question: Samples
) -> None:
    path = _encode(tmp_path / "a.webm", "libopus", question, 48_000)
    whole, piece = read_audio(path), read_piece(path, 0.5, 0.5)
    assert np.abs(piece[200:-200] - whole[12_200:23_800]).max() < 1e-3
    assert np.array_equal(np.concatenate(list(audio_blocks(path))), whole)


def test_an_mp3_of_variable_bit_rate_without_a_header_is_read_to_its_end(
    tmp_path: Path, question: Samples
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 72_000).astype(np.float32)
    said = np.concatenate([question, np.zeros(72_000, np.float32), noise])
    path = _encode(tmp_path / "a.mp3", "libmp3lame", said, write_xing="0")
    assert 0 <= len(read_audio(path)) - len(said) <= MP3_DELAY


def test_joined_recordings_are_read_one_after_the_other(tmp_path: Path, question: Samples) -> None:
    mp3 = _encode(tmp_path / "a.mp3", "libmp3lame", question)
    ogg = _encode(tmp_path / "a.ogg", "libopus", question, 48_000)
    for path in (mp3, ogg):
        path.write_bytes(path.read_bytes() * 2)
        heard = read_audio(path)
        assert 0 <= len(heard) - 2 * len(question) <= MP3_DELAY
        assert _like(heard, question) and _like(heard[len(heard) // 2 - 1152 :], question)


def test_a_live_opus_stream_has_no_last_page_and_is_whole(tmp_path: Path, question: Samples) -> None:
    writer = OpusWriter()
    path = tmp_path / "live.ogg"
    pages = [writer.push(question[at : at + 1920]) for at in range(0, len(question), 1920)]
    path.write_bytes(b"".join([writer.header(), *pages]))
    heard = read_audio(path)
    assert abs(len(heard) - len(question)) < 2 * 1920
    assert _like(heard, question)


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path, question: Samples) -> None:
    path = tmp_path / "pipe.flac"
    sf.write(path, question, 24_000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the length: the last 36 bits of 64, from byte 18 on
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert np.allclose(read_audio(path), question, atol=1e-4)
    assert read_header(path).duration_s == pytest.approx(len(question) / 24_000)


def test_wav_with_sizes_of_zero_is_read_to_its_end(tmp_path: Path, question: Samples) -> None:
    path = tmp_path / "killed.wav"
    sf.write(path, question, 24_000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = bytes(4)
    path.write_bytes(data)
    assert np.allclose(read_audio(path), question, atol=1e-4)


def test_an_mp3_that_is_cut_off_is_known_by_its_header(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 240_000).astype(np.float32)
    path = _encode(tmp_path / "a.mp3", "libmp3lame", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


def test_a_playlist_opens_no_other_file(tmp_path: Path, question: Samples) -> None:
    _encode(tmp_path / "secret.mp4", "aac", question)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:2,\nsecret.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read_audio(tmp_path / "list.m3u8")


def test_without_the_extra_the_error_names_it(tmp_path: Path, question: Samples) -> None:
    path = _encode(tmp_path / "phone.m4a", "aac", question)
    program = """if True:
        import sys
        sys.modules["av"] = None  # as if it were not installed
        from moshi_agent import AudioError
        from moshi_agent.audio.files import read_audio
        try:
            read_audio(sys.argv[1])
        except AudioError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert "moshi-agent[media]" in run.stdout and "m4a" in run.stdout
