"""The small suite: what is in its samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.evaluation.samples import find_samples
from moshi_agent.evaluation.small_suite import COUNT, make_small_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    make_small_suite(folder)
    return folder


def test_every_task_has_its_samples(suite: Path) -> None:
    tasks = [sample.task for sample in find_samples(suite)]
    assert {task: tasks.count(task) for task in tasks} == {
        "smooth_turn_taking": COUNT,
        "pause_handling": COUNT,
        "user_interruption": COUNT,
        "overlap": COUNT,
    }
    assert not [sample for sample in find_samples(suite, "fdb-v1") if sample.task == "overlap"]


def test_events_are_where_the_sound_is(suite: Path) -> None:
    """Speech up to the end of a turn, silence in a pause and after a turn, the other voice in an overlap."""
    for sample in find_samples(suite):
        sound, rate_hz = sf.read(sample.folder / "input.wav", dtype="float32")
        event = sample.event_s()
        assert event is not None
        start, end = (round(at_s * rate_hz) for at_s in event)
        if sample.task == "smooth_turn_taking":
            assert abs(sound[end - 240 : end]).max() > 0 and not sound[end + 1 :].any()
        elif sample.task == "pause_handling":
            assert not sound[start + 1 : end - 1].any()
            assert abs(sound[:start]).max() > 0.1 and abs(sound[end:]).max() > 0.1
            assert abs(sound[-240:]).max() > 0, "it ends with the user's last word"
        else:
            assert abs(sound[start:end]).max() > 0.02 and not sound[end + 1 :].any()


def test_the_clean_input_differs_by_the_overlap_alone(suite: Path) -> None:
    for sample in find_samples(suite, "fdb-v1.5"):
        noisy, _ = sf.read(sample.folder / "input.wav")
        clean, rate_hz = sf.read(sample.folder / "clean_input.wav")
        where = np.flatnonzero(noisy != clean) / rate_hz
        event = sample.event_s()
        assert event is not None and event[0] - 1e-3 <= where.min() < where.max() <= event[1] + 1e-3


def test_it_is_the_same_whenever_it_is_made(suite: Path, tmp_path: Path) -> None:
    make_small_suite(tmp_path)
    for path in suite.rglob("input.wav"):
        assert path.read_bytes() == (tmp_path / path.relative_to(suite)).read_bytes()


def test_the_voice_from_afar_is_quieter(suite: Path) -> None:
    for near in (suite / "user_interruption").iterdir():
        far = suite / "background_speech" / near.name
        [timed] = json.loads((near / "interrupt.json").read_text())
        start, end = (round(at_s * 24_000) for at_s in timed["timestamp"])
        loud, quiet = (sf.read(folder / "input.wav")[0][start:end] for folder in (near, far))
        assert 20 * np.log10(np.sqrt(np.mean(loud**2) / np.mean(quiet**2))) == pytest.approx(18, abs=0.5)
