"""The benchmark for a GPU, tried on the CPU with an eighth of the widths and a short context."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_gpu.py")


@pytest.mark.slow
def test_every_part_leaves_its_figures_whatever_happens_to_the_others(tmp_path: Path) -> None:
    """The kernel's part fails without a GPU, and the next one still runs."""
    size = ["--device", "cpu", "--scale", "8", "--context", "12", "--most", "1", "--repeats", "2"]
    names = ["tests", "one", "int8", "float", "int8-weights", "int4-weights", "codec", "attend", "callers"]
    parts = ["--seconds", "1", "--only", *names]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path), *size, *parts],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout
    assert "Parts that failed: attend." in run.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["arguments", *names]
    assert results["one"]["figures"]["parts_ms_of_1"].keys() == {"hear", "temporal", "choose", "speak"}
    assert results["one"]["figures"]["known_api_captured_p50_ms"] > 0
    for cache in ("int8", "float", "int8-weights", "int4-weights"):
        assert list(results[cache]["figures"]["p50_p95_p99_ms"]) == ["1"]
    assert results["callers"]["figures"]["sessions"] == 1
    assert results["callers"]["figures"]["frames"] > 0
    assert len(re.findall(r"^\| {4}1 \| +\d+\.\d+ \|", run.stdout, re.M)) == 4
    assert "=== callers: exit 0" in (tmp_path / "log.txt").read_text()


def test_wheels_that_are_missing_are_named_before_anything_runs(tmp_path: Path) -> None:
    """A machine with PyTorch alone lacks them, and has no network."""
    code = (
        "import runpy, sys\n"
        "sys.modules.update(soxr=None, _cffi_backend=None)\n"
        f"sys.argv = ['on_gpu.py', '--out', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "Bring the wheels of cffi, soxr, for this Python" in run.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_part_that_hangs_is_ended(tmp_path: Path) -> None:
    """With all that it has started; and there is no time left for the next."""
    size = ["--device", "cpu", "--scale", "1", "--minutes", "0.1", "--only", "one", "int8"]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path), *size],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 2, run.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["one"]["out_of_time"] and results["int8"] == {"no time": True}
