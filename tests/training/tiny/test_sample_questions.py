"""The spoken questions in the package are the ones that the built-in model knows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.questions import sample_questions
from moshi_agent.training.tiny.phrases import load_phrases
from moshi_agent.training.tiny.sample_questions import (
    QUESTIONS_FOLDER,
    SHOWCASE,
    VOICES,
    write_sample_questions,
)
from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, active_rms
from moshi_agent.training.tiny.voices import TRAINING_VOICES

MISSING = [command for command in ("flite", "espeak-ng") if shutil.which(command) is None]


def test_every_known_question_ships_once() -> None:
    """The index lists the questions of the exchanges, the showcase first, and the folder holds no other."""
    questions = sample_questions()
    assert questions[0].text == SHOWCASE
    assert sorted(question.text for question in questions) == sorted(
        exchange.question for exchange in load_phrases().exchanges
    )
    files = {path.name for path in QUESTIONS_FOLDER.iterdir()}
    assert files == {"index.json", *(question.path.name for question in questions)}
    assert sum(path.stat().st_size for path in QUESTIONS_FOLDER.iterdir()) < 1_500_000


def test_questions_are_clear_and_stand_between_silences() -> None:
    """Mono, 24 kHz, about -20 dBFS, no clipping, and nothing in the first 0.3 and the last 0.7 seconds."""
    for question in sample_questions():
        audio, rate_hz = sf.read(question.path, dtype="float32")
        assert (rate_hz, audio.ndim) == (SAMPLE_RATE_HZ, 1)
        assert 1.5 < len(audio) / rate_hz < 3.5
        assert not audio[: int(0.3 * rate_hz)].any()
        assert not audio[-int(0.7 * rate_hz) :].any()
        assert -24 < 20 * np.log10(active_rms(audio)) < -18
        assert np.abs(audio).max() < 0.95


def test_the_voices_are_those_of_training() -> None:
    """Each setting can be drawn in training, so that a sample question is not an experiment."""
    grid = TRAINING_VOICES
    for voice in VOICES:
        assert voice.speed in grid.speeds
        assert voice.tract in grid.tracts
        if voice.engine == "flite":
            assert voice.pitch in (None, *grid.flite_pitches_hz)
        else:
            assert voice.pitch in grid.espeak_pitches
            assert voice.name in {accent + variant for accent in grid.accents for variant in grid.variants}


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_rendering_makes_the_shipped_index(tmp_path: Path) -> None:
    """The script gives the same names and texts as the package has."""
    write_sample_questions(tmp_path)
    assert (tmp_path / "index.json").read_text() == (QUESTIONS_FOLDER / "index.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in QUESTIONS_FOLDER.iterdir()}
