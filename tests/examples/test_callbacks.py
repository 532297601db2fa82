"""`examples/callbacks.py`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile as sf

import moshi_agent
from moshi_agent.questions import sample_questions

EXAMPLE = Path(__file__).parents[2] / "examples" / "callbacks.py"


def _run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_shipped_question_is_answered_in_words_and_sound(tmp_path: Path) -> None:
    question = sample_questions()[0]
    exchanges = Path(moshi_agent.__file__).parent / "assets" / "tiny" / "exchanges.json"
    answers = {entry["question"]: entry["answer"] for entry in json.loads(exchanges.read_text())}
    run = _run(question.path, tmp_path / "answer.wav")
    assert run.returncode == 0, run.stderr
    words, ended, *rest = run.stdout.splitlines()
    assert words.strip() == answers[question.text]
    assert ended == "(finished)"
    assert rest == []
    answer, rate_hz = sf.read(tmp_path / "answer.wav", dtype="float32")
    asked = sf.info(question.path).duration
    assert rate_hz == 24_000
    assert len(answer) / rate_hz > asked + 3
    assert np.abs(answer[round(asked * rate_hz) :]).max() > 0.05


def test_a_missing_question_is_an_error_of_one_line(tmp_path: Path) -> None:
    run = _run(tmp_path / "nothing.wav", tmp_path / "answer.wav")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert "nothing.wav" in run.stderr
    assert not (tmp_path / "answer.wav").exists()
