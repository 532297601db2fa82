"""`moshi-agent convert`, there and back."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from moshi_agent.cli import main


def test_a_checkpoint_is_converted_there_and_back(tmp_path: Path) -> None:
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    run = CliRunner().invoke(
        main, ["convert", "tiny", there, "--to", "transformers", "--max-shard-size", "6MB"]
    )
    assert (run.exit_code, run.stderr) == (0, "")
    assert "in the format of transformers" in run.stdout
    assert (tmp_path / "there" / "model.safetensors.index.json").is_file()
    run = CliRunner().invoke(main, ["convert", there, back, "--to", "kyutai"])
    assert (run.exit_code, run.stderr) == (0, "")
    assert (tmp_path / "back" / "mimi.safetensors").is_file()


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["convert", "tiny", str(tmp_path), "--to", "kyutai"])
    assert run.exit_code == 1
    assert run.stderr == "error: tiny: its format is that of kyutai already\n"
    run = CliRunner().invoke(main, ["convert", "tiny", str(tmp_path)])
    assert run.exit_code == 2 and "--to" in run.stderr
