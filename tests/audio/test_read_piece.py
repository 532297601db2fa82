"""Pieces of audio files: the same samples as in the whole, wherever they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import read_audio, read_piece
from moshi_agent.errors import AudioError


def written(path: Path, rate_hz: int, seconds: float = 2.0, channels: int = 1) -> Path:
    time = np.arange(int(rate_hz * seconds)) / rate_hz
    sound = 0.3 * np.sin(2 * np.pi * 220 * time + 3 * time**2)
    sf.write(path, np.stack([sound] * channels, axis=1), rate_hz)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_piece_is_a_stretch_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a.{suffix}", 24_000)
    piece = read_piece(path, 0.5, 0.25)
    assert piece.dtype == np.float32
    np.testing.assert_allclose(piece, read_audio(path)[12_000:18_000], atol=1e-4)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (48_000, 2)])
def test_another_rate_is_resampled(tmp_path: Path, rate_hz: int, channels: int) -> None:
    """But for the edges, where the whole has neighbours that the piece has not."""
    path = written(tmp_path / "a.wav", rate_hz, channels=channels)
    piece, whole = read_piece(path, 1.0, 0.5), read_audio(path)
    assert len(piece) == 12_000
    np.testing.assert_allclose(piece[600:-600], whole[24_600:35_400], atol=2e-3)


def test_it_ends_where_the_file_does(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", 24_000)
    assert len(read_piece(path, 1.9, 1.0)) == 2_400
    assert len(read_piece(path, 5.0, 1.0)) == 0


def test_what_is_no_number_is_refused_in_this_piece_alone(tmp_path: Path) -> None:
    samples = np.zeros(48_000, np.float32)
    samples[30_000] = np.nan
    sf.write(tmp_path / "a.wav", samples, 24_000, subtype="FLOAT")
    assert len(read_piece(tmp_path / "a.wav", 0.0, 1.0)) == 24_000
    with pytest.raises(AudioError, match=r"no finite number, 1\.250 s after its start"):
        read_piece(tmp_path / "a.wav", 1.0, 1.0)
    with pytest.raises(AudioError, match="there is no file"):
        read_piece(tmp_path / "none.wav", 0.0, 1.0)
