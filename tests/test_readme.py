"""The README's programs that use the engine, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("### Many conversations")[2].partition("\n### ")[0]
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", SECTION, re.M | re.S)


def _run(program: str, folder: Path) -> str:
    samples = read_audio(sample_questions()[0].path)
    sf.write(folder / "question.wav", samples, 24_000)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_readme_has_both_ways_to_use_the_engine() -> None:
    assert len(PROGRAMS) == 2


def test_three_conversations_are_answered_at_once(tmp_path: Path) -> None:
    printed = _run(PROGRAMS[0], tmp_path)
    assert printed.count("Moshi,") == 3
    for number in range(3):
        answer, rate_hz = sf.read(tmp_path / f"answer-{number}.wav")
        assert rate_hz == 24_000
        assert np.abs(answer).max() > 0.05


def test_callbacks_get_text_and_telephone_audio(tmp_path: Path) -> None:
    program = PROGRAMS[1] + "\nassert sum(map(len, played)) > 2 * 8_000 * 5, 'less than five seconds'"
    assert "My name is Moshi" in _run(program, tmp_path)


@pytest.mark.parametrize("example", re.findall(r"\]\((examples/\w+\.py)\)", SECTION))
def test_the_examples_named_are_there(example: str) -> None:
    assert (Path(__file__).parents[1] / example).is_file()
