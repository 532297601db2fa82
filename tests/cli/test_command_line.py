"""The command as a whole: quick help, errors of one line, and its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from moshi_agent._version import __version__
from moshi_agent.cli import main
from moshi_agent.cli.command_line import CommandLine
from moshi_agent.errors import CheckpointError

SUB_COMMANDS = ["run", "serve", "talk", "download", "convert", "bench", "doctor", "train"]


def _invoke(*args: str):
    return CliRunner().invoke(main, list(args))


@click.group(cls=CommandLine)
def failing() -> None:
    """A command line whose commands fail."""


@failing.command()
def model() -> None:
    raise CheckpointError("model.safetensors is cut off\nat byte 12")


@failing.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@failing.command()
def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


@failing.command()
def buggy() -> None:
    raise ZeroDivisionError


def test_the_version_is_that_of_the_package() -> None:
    result = _invoke("--version")
    assert result.exit_code == 0
    assert __version__ in result.output


@pytest.mark.parametrize("command", SUB_COMMANDS)
def test_every_sub_command_is_listed_and_explains_itself(command: str) -> None:
    assert f"\n  {command} " in _invoke("--help").output
    result = _invoke(command, "--help")
    assert result.exit_code == 0
    assert f"main {command}" in result.output


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["run", "--tail", "soon"], ["download"]])
def test_help_and_wrong_usage_do_not_wait_for_torch(args: list[str]) -> None:
    program = """if True:
        import sys
        from moshi_agent.cli import main
        try:
            main(sys.argv[1:])
        finally:
            assert "torch" not in sys.modules, "torch was loaded"
    """
    run = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=False)
    assert run.returncode in (0, 2)
    assert "Traceback" not in run.stderr


def test_python_m_is_the_same_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "moshi_agent", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"moshi-agent, version {__version__}\n"


def test_the_installed_command_is_the_one_tested_here() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"moshi-agent": "moshi_agent.cli:main"}


def test_an_error_of_ours_is_one_line_and_exit_code_1() -> None:
    result = CliRunner().invoke(failing, ["model"])
    assert result.exit_code == 1
    assert result.stderr == "error: model.safetensors is cut off at byte 12\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["unknown"], "unknown"),
        (["run", "--loud"], "--loud"),
        (["run", "--tail", "soon"], "soon"),
        (["download"], "REPO"),
        (["bench", "--frames", "0"], "--frames"),
    ],
)
def test_wrong_usage_is_one_line_that_names_it_and_exit_code_2(args: list[str], named: str) -> None:
    result = _invoke(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
    assert "--help)" in result.stderr


def test_an_interruption_is_quiet_and_exit_code_130() -> None:
    result = CliRunner().invoke(failing, ["interrupted"])
    assert result.exit_code == 130
    assert result.output.strip() == ""


def test_a_termination_lets_the_command_clean_up() -> None:
    assert CliRunner().invoke(failing, ["terminated"]).exit_code == 143


def test_a_defect_is_not_dressed_up_as_an_error_of_the_user() -> None:
    assert isinstance(CliRunner().invoke(failing, ["buggy"]).exception, ZeroDivisionError)


def test_without_a_sub_command_the_help_is_shown() -> None:
    assert "Commands:" in _invoke().output


def _run(*args: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command in a shell that redirects as `shell` says."""
    command = " ".join([sys.executable, "-m", "moshi_agent", *args, shell])
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


def test_without_standard_error_it_works_all_the_same(tmp_path: Path) -> None:
    """As under pythonw, in a windowed program, or with a stream closed by the shell."""
    run = _run("run", "--question", "1", "--greedy", "--out", f"{tmp_path}/a.wav", shell="2>&-")
    assert run.returncode == 0 and "Moshi" in run.stdout
    assert (tmp_path / "a.wav").stat().st_size > 100_000


def test_a_full_standard_output_is_one_line() -> None:
    run = _run("run", "--list-questions", shell=">/dev/full")
    assert run.returncode == 1
    assert run.stderr == "error: cannot write to the standard output: No space left on device\n"


def test_a_reader_that_has_enough_is_no_error_to_speak_of() -> None:
    run = _run("run", "--list-questions", shell="| true; exit ${PIPESTATUS[0]}")
    assert run.returncode in (0, 1) and run.stderr == ""


def test_a_name_that_is_no_utf_8_is_written_and_printed(tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/\xff.wav"
    command = [sys.executable, "-m", "moshi_agent", "run", "--question", "1", "--greedy", "--out", out]
    run = subprocess.run(command, capture_output=True, check=True)
    assert b"Written: " + out in run.stdout and os.path.exists(out)
