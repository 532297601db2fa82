"""`moshi-agent questions`: the sample questions, listed and as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf
from click.testing import CliRunner

from moshi_agent.audio.files import read_audio
from moshi_agent.cli import main
from moshi_agent.questions import sample_questions


def test_they_are_listed_as_run_lists_them() -> None:
    listed = CliRunner().invoke(main, ["questions"]).stdout
    assert listed == CliRunner().invoke(main, ["run", "--list-questions"]).stdout
    assert len(listed.splitlines()) == len(sample_questions())


def test_they_are_written_as_files_that_any_client_reads(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "samples"
    result = CliRunner().invoke(main, ["questions", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Written: {len(sample_questions())} questions to {folder}\n"
    for question in sample_questions():
        path = folder / f"{question.path.stem}.wav"
        info = sf.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (24_000, 1, "PCM_16")
        np.testing.assert_allclose(read_audio(path), read_audio(question.path), atol=1 / 32768)


def test_a_file_in_the_folders_place_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "samples").touch()
    result = CliRunner().invoke(main, ["questions", str(tmp_path / "samples" / "more")])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot write") and result.stderr.count("\n") == 1
