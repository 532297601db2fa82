"""`moshi-agent download`: fetched and checked, not loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from moshi_agent.checkpoint import download_checkpoint
from moshi_agent.cli.download import download


@pytest.mark.parametrize("name", ["hf_mimi", "hf_moshi"])
def test_every_file_that_is_needed_is_listed(golden: Path, name: str) -> None:
    folder = golden / name / "checkpoint"
    files = download_checkpoint(folder)
    assert [file.path for file in files] == sorted(folder.glob("model*.safetensors"))
    assert all(file.size == file.path.stat().st_size for file in files)


def test_weights_and_tokenizer_are_listed(saved: Path) -> None:
    names = [file.path.name for file in download_checkpoint(saved)]
    assert names == ["model.safetensors", "mimi.safetensors", "tokenizer_spm.model"]


def test_the_command_says_what_is_there(saved: Path) -> None:
    result = CliRunner().invoke(download, [str(saved)], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{saved / 'model.safetensors'}" in result.output
    assert result.output.endswith(f"{saved} is here and whole.\n")
