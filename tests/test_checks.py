"""The rules of the checks: nothing is skipped unseen, and only what waits for the clock has a second try."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="needs a CUDA device")
def test_allowed(): ...

@pytest.mark.skipif(True, reason="Triton is not installed")
def test_marked(): ...

def test_within():
    pytest.importorskip("there_is_none")

@pytest.mark.xfail
def test_known_to_fail():
    assert False
"""
FAILING = """
import os, pathlib, pytest

def test_right(): ...

@pytest.mark.real_time
def test_late():
    tried = pathlib.Path("tried")
    if not tried.exists():
        tried.touch()
        pytest.fail("late")

def test_wrong():
    assert "WRONG" not in os.environ
"""


@pytest.mark.parametrize(
    ("ci", "exit_code", "outcomes"),
    [
        ("", 0, {"skipped": 4, "xfailed": 1}),
        ("true", 1, {"failed": 1, "errors": 2, "skipped": 1, "xfailed": 1}),
    ],
)
def test_what_is_skipped_fails_under_ci(
    ci: str, exit_code: int, outcomes: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('there_is_none')\n")
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "--continue-on-collection-errors", *options, str(tmp_path)]
    environment = ENVIRONMENT | {"CI": ci, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = re.findall(r"(\d+) ([a-z]+)", done.stdout.splitlines()[-1].partition(" in ")[0])
    assert (done.returncode, {outcome: int(count) for count, outcome in counts}) == (exit_code, outcomes)


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize("wrong", [False, True])
def test_only_what_waits_for_the_clock_has_a_second_try(wrong: bool, tmp_path: Path) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program, module in (("python", ""), ("pytest", "-m pytest")):
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (programs / program).chmod(0o755)
    (tmp_path / "test_failing.py").write_text(FAILING)
    functions = re.findall(
        r"^(?:run|failed)_tests\(\) \{.*?^\}$", (ROOT / ".ci/run").read_text(), re.M | re.S
    )
    script = "\n".join(["set -euo pipefail", "work=$PWD", *functions, "run_tests log .venv/bin/pytest"])
    environment = ENVIRONMENT | ({"WRONG": "1"} if wrong else {})
    done = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    second_try = tmp_path / "second_try"
    if wrong:
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1] == "failed: test_failing.py::test_wrong"
        assert not second_try.exists()
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert second_try.read_text() == "test_failing.py::test_late\n"


def test_no_dependency_of_users_has_an_upper_bound() -> None:
    """It would keep them from what others beside it need. LiveKit's contract alone may change with 1.9."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [one for name in extras if name not in ("dev", "docs", "livekit") for one in extras[name]]
    assert [one for one in [*project["dependencies"], *needed] if re.search("<|==|~=|!=", one)] == []
