"""The README's program on `moshi_agent.hf`, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import soundfile as sf

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("### As with Transformers")[2].partition("\n### ")[0]


def test_a_question_is_answered_while_it_is_fed(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", SECTION, re.M | re.S)
    sf.write(tmp_path / "question.wav", read_audio(sample_questions()[0].path), 24_000)
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "My name is Moshi" in run.stdout
