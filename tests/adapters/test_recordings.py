"""Calls as files, from real conversations."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent import AudioChunk, Engine, SessionConfig, Word
from moshi_agent.audio.files import read_audio, read_channels
from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ
from moshi_agent.evaluation.samples import find_samples
from moshi_agent.evaluation.sounds import model_sound, user_sound
from moshi_agent.questions import sample_questions
from moshi_agent.training.stereo.manifest import read_manifest
from moshi_agent.training.stereo.problems import Problems
from moshi_agent.training.stereo.recording import open_recordings
from moshi_agent_adapters.recordings import Recordings


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", shared=False, capacity=2, admit_by_time=False) as engine:
        yield engine


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    recordings = Recordings(tmp_path / "calls")
    engine.new_tap = recordings.begin
    yield tmp_path / "calls"
    engine.new_tap = None
    recordings.close()


def _ended(folder: Path) -> Path:
    """The folder of the only call, once it is complete."""
    for _ in range(400):
        if (folder / "calls.jsonl").exists():
            break
        time.sleep(0.025)
    [listed] = (json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines())
    return (folder / listed["path"]).parent


@pytest.mark.parametrize("rate_hz", [24_000, 8_000])
def test_a_call_is_what_both_sides_heard(engine: Engine, folder: Path, rate_hz: int) -> None:
    """Both sides at their times, the words, the events; and fine-tuning takes it."""
    question = read_audio(sample_questions()[0].path)
    config = SessionConfig(seed=1, live=False, tail_ms=3000, output_sample_rate=rate_hz)
    with engine.session(config) as session:
        session.push(question)
        session.finish()
        events = list(session)
    call = _ended(folder)
    sound = read_channels(call / "call.wav")
    heard = sound[: len(question), 1]
    assert abs(heard - question).max() < 1e-3
    assert not sound[len(question) + FRAME_SAMPLES :, 1].any()
    said = np.concatenate([event.pcm for event in events if isinstance(event, AudioChunk)])
    scale = SAMPLE_RATE_HZ // rate_hz
    assert abs(len(said) * scale - len(sound)) <= FRAME_SAMPLES
    loud = (np.flatnonzero(abs(said) > 0.05) * scale, np.flatnonzero(abs(sound[:, 0]) > 0.05))
    assert abs(loud[0][0] - loud[1][0]) < 240 and abs(loud[0][-1] - loud[1][-1]) < 240
    problems = Problems()
    [recording] = open_recordings(read_manifest(folder / "calls.jsonl"), problems)
    assert not problems
    words = [event for event in events if isinstance(event, Word)]
    assert words and [word.word for word in recording.words().alignments] == [word.text for word in words]
    lines = [json.loads(line) for line in (call / "events.jsonl").read_text().splitlines()]
    kinds = {line["type"] for line in lines}
    assert {"word", "bot_started", "ended"} <= kinds and "audio_chunk" not in kinds


def test_an_evaluation_reads_it(engine: Engine, folder: Path) -> None:
    with engine.session(SessionConfig(seed=1, live=False, tail_ms=80)) as session:
        session.push(np.full(4_800, 0.1, np.float32))
        session.finish()
        list(session)
    call = _ended(folder)
    [sample] = find_samples(folder)
    assert (sample.task, sample.folder, sample.inputs) == ("call", call, {"call": "output"})
    assert abs(user_sound(sample)[0]).max() > 0.05
    assert len(model_sound(sample)[0]) == len(user_sound(sample)[0])


def test_a_call_that_is_closed_is_complete(engine: Engine, folder: Path) -> None:
    session = engine.session(SessionConfig(seed=1)).open()
    session.push(np.zeros(48_000, np.float32))
    for event in session:
        if isinstance(event, AudioChunk) and event.frame == 10:
            break
    session.close()
    call = _ended(folder)
    assert sf.info(call / "call.wav").frames >= 10 * FRAME_SAMPLES
    assert json.loads((call / "events.jsonl").read_text().splitlines()[-1])["reason"] == "closed"


def test_calls_that_go_on_are_written_at_the_end(engine: Engine, tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    engine.new_tap = recordings.begin
    session = engine.session(SessionConfig(seed=1)).open()
    engine.new_tap = None
    session.push(np.zeros(48_000, np.float32))
    for event in session:
        if isinstance(event, AudioChunk) and event.frame == 5:
            break
    recordings.close()
    assert sf.info(_ended(tmp_path) / "call.wav").frames >= 5 * FRAME_SAMPLES
    session.close()


def test_a_recording_that_cannot_be_written_costs_nobody_a_call(
    engine: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rmdir()
    folder.write_text("no folder")
    with caplog.at_level(logging.WARNING), engine.session(SessionConfig(live=False, tail_ms=80)) as session:
        session.push(np.zeros(4_800, np.float32))
        session.finish()
        assert sum(isinstance(event, AudioChunk) for event in session) > 2
        for _ in range(200):
            if "is lost" in caplog.text:
                break
            time.sleep(0.025)
    assert caplog.text.count("is lost") == 1


def test_nobody_else_may_look_into_the_folder(folder: Path) -> None:
    assert folder.stat().st_mode & 0o077 == 0
