"""Recordings in another scale, out of phase, with an offset, silent: refused or mended, and said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import audio_blocks, read_audio, read_channels, read_piece
from moshi_agent.audio.framing import Samples
from moshi_agent.audio.levels import LiveOffset
from moshi_agent.errors import AudioError
from moshi_agent.questions import sample_questions


@pytest.fixture(scope="module")
def question() -> Samples:
    """A spoken question, [N] at 24 kHz."""
    return read_audio(sample_questions()[0].path)


def _write(path: Path, samples: Samples) -> Path:
    sf.write(path, samples, 24_000, subtype="FLOAT")
    return path


def test_a_float_file_in_the_scale_of_integers_is_refused_however_it_is_read(
    tmp_path: Path, question: Samples
) -> None:
    path = _write(tmp_path / "loud.wav", question * 32767)
    for read in (
        read_audio,
        read_channels,
        lambda one: list(audio_blocks(one)),
        lambda one: read_piece(one, 0, 2),
    ):
        with pytest.raises(AudioError, match=r"loud\.wav has samples of [\d.]+; accepted: float32"):
            read(path)


def test_of_channels_that_cancel_each_other_one_is_read(
    tmp_path: Path, question: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path / "phase.wav", np.stack([question, -question], axis=1))
    with caplog.at_level(logging.WARNING, "moshi_agent.audio"):
        assert np.allclose(read_audio(path), question, atol=1e-4)
        assert np.allclose(np.concatenate(list(audio_blocks(path))), question, atol=1e-4)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has channels that cancel each other: one of them is read"
    ]


@pytest.mark.parametrize("signs", [(1, -1, 1, -1), (1, -1, 0), (0.5, 0.5, -1)])
def test_of_more_channels_that_cancel_each_other_the_loudest_is_read(
    tmp_path: Path, question: Samples, signs: tuple[float, ...]
) -> None:
    path = _write(tmp_path / "phases.wav", question[:, None] * np.array(signs, np.float32))
    heard = read_audio(path)
    assert np.allclose(np.abs(heard), np.abs(question), atol=1e-4)


def test_four_speakers_on_four_channels_are_mixed(tmp_path: Path, question: Samples) -> None:
    apart = np.stack([np.roll(question, 5000 * number) for number in range(4)], axis=1)
    path = _write(tmp_path / "four.wav", apart)
    assert np.allclose(read_audio(path), apart.mean(axis=1), atol=1e-4)


def test_two_speakers_on_two_channels_are_mixed(tmp_path: Path, question: Samples) -> None:
    half = len(question) // 2
    one, other = question.copy(), question.copy()
    one[half:], other[:half] = 0, 0
    path = _write(tmp_path / "two.wav", np.stack([one, other], axis=1))
    assert np.allclose(read_audio(path), question / 2, atol=1e-4)


@pytest.mark.parametrize("offset", [0.1, -0.3])
def test_a_constant_offset_is_taken_out_and_said(
    tmp_path: Path, question: Samples, offset: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path / "offset.wav", question + np.float32(offset))
    with caplog.at_level(logging.WARNING, "moshi_agent.audio"):
        heard = read_audio(path)
    assert np.abs(heard - (question - question.mean())).max() < 1e-3
    assert f"({question.mean() + offset:.3f} of full scale): it is taken out" in caplog.text


def test_a_silent_file_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "silent.wav", np.zeros(48_000, np.float32))
    with caplog.at_level(logging.WARNING, "moshi_agent.audio"):
        assert not read_audio(path).any()
    assert "silent.wav is silent" in caplog.text


def test_a_live_stream_loses_its_offset_within_a_second(question: Samples) -> None:
    frames = (np.tile(question, 3)[: 60 * 1920] + np.float32(0.2)).reshape(60, 1920)
    offset = LiveOffset()
    mended = np.stack([offset.mend(frame) for frame in frames])
    assert np.abs(mended[25:].mean(axis=1)).max() < 0.05
    assert abs(float(mended[25:].mean())) < 0.01


def test_a_live_stream_without_an_offset_keeps_its_bits(question: Samples) -> None:
    offset = LiveOffset()
    for frame in question[: 24 * 1920].reshape(24, 1920):
        assert offset.mend(frame) is frame
