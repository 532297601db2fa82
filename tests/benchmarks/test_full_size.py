"""The benchmark for a GPU, tried on the CPU with an eighth of the widths and a short context."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_size.py")


@pytest.mark.slow
def test_it_generates_a_checkpoint_and_times_steps_and_callers(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    model = ["--scale", "8", "--context", "12", "--kv-cache", "float", "--model", str(tmp_path / "model")]
    size = ["--device", "cpu", "--most", "1", "--repeats", "2", "--seconds", "1", "--json", str(out)]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *model, *size], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"\| +1 \| +\d+\.\d \| +\d+\.\d \| +\d+\.\d \|", run.stdout)
    figures = json.loads(out.read_text())
    assert figures["sessions"] == 1
    assert figures["full_context"] is True
    assert figures["frames"] > 0
