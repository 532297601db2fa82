"""Clicks at the borders of frames and a sound in pauses are found in a voice that has neither."""

from __future__ import annotations

import numpy as np
import pytest

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions
from moshi_agent.training.tiny.evaluation.artefacts import artefact_report, border_db, pause_dbfs
from moshi_agent.training.tiny.evaluation.ear import Spoken
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, Audio


@pytest.fixture(scope="module")
def voice() -> Audio:
    """Sample questions, with pauses of 0.2 s after them."""
    questions = [read_audio(one.path, SAMPLE_RATE_HZ) for one in sample_questions()[:4]]
    return np.concatenate([np.pad(sound, (0, SAMPLE_RATE_HZ // 5)) for sound in questions])


def test_a_voice_has_no_borders_and_clicks_are_heard_at_them(voice: Audio) -> None:
    assert abs(border_db([voice])) < 3
    clicking = voice.copy()
    clicking[FRAME_SAMPLES::FRAME_SAMPLES] += 0.05
    assert border_db([clicking]) > 6
    elsewhere = voice.copy()
    elsewhere[FRAME_SAMPLES // 2 :: FRAME_SAMPLES] += 0.05
    assert border_db([elsewhere]) < 1


def test_a_step_between_frames_is_a_click(voice: Audio) -> None:
    """As where one frame is louder than the next, with nothing to lead over."""
    stepped = voice.copy()
    for number, start in enumerate(range(0, len(voice), FRAME_SAMPLES)):
        stepped[start : start + FRAME_SAMPLES] += 0.02 * (number % 2)
    assert border_db([stepped]) > border_db([voice]) + 3


@pytest.mark.parametrize("level_db", [-60.0, -40.0])
def test_the_level_of_a_buzz_in_pauses_is_told(voice: Audio, level_db: float) -> None:
    at = np.arange(len(voice)) / SAMPLE_RATE_HZ
    buzz = 10 ** (level_db / 20) * np.sqrt(2) * np.sin(2 * np.pi * 100 * at)
    buzzing = (voice + buzz).astype(np.float32)
    assert pause_dbfs([voice]) < level_db - 10
    assert pause_dbfs([buzzing]) == pytest.approx(level_db, abs=3)


def test_the_report_stands_beside_the_teacher(voice: Audio) -> None:
    silence = np.zeros_like(voice)
    report = artefact_report([Spoken(kind="told", text="", bot=voice, teacher=silence)])
    assert "(the teacher's +0.0 dB)" in report and "(the teacher's -120.0)" in report
