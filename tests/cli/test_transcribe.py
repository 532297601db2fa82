"""`moshi-agent transcribe`: what it writes and says, and what it refuses, on the small recogniser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner, Result

from moshi_agent.cli import main
from tests.recogniser_model import write_recogniser_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recogniser_checkpoint(tmp_path_factory.mktemp("stt"))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds of noise at 16 kHz, in two channels."""
    noise = np.random.default_rng(3).normal(0, 0.1, (32_000, 2)).astype(np.float32)
    sf.write(tmp_path / "talk.wav", noise, 16_000)
    return tmp_path / "talk.wav"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_files_are_looked_at_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # where fetching one fails, with another message
    missing, empty = tmp_path / "none.wav", tmp_path / "empty.wav"
    empty.touch()
    for files in ((missing,), (empty,), (missing, empty)):
        result = run("transcribe", *files)
        assert result.exit_code == 1 and str(files[0]) in result.stderr


def test_text_goes_to_the_screen_and_figures_beside_it(model: Path, recording: Path) -> None:
    result = run("transcribe", recording, "--model", model)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split()) > 5
    assert "2.0 s of audio" in result.stderr and "real-time factor" in result.stderr


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("a.srt", "1\n00:00:0"), ("a.vtt", "WEBVTT\n\n00:00:0"), ("a.json", '{\n  "source"')],
)
def test_the_name_of_the_output_says_its_format(
    model: Path, recording: Path, tmp_path: Path, name: str, beginning: str
) -> None:
    result = run("transcribe", recording, "--model", model, "--out", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Written: {tmp_path / name}\n"
    assert (tmp_path / name).read_text().startswith(beginning)


def test_json_says_what_was_transcribed_with_what(model: Path, recording: Path) -> None:
    result = run("transcribe", recording, "--model", model, "--format", "json")
    content = json.loads(result.stdout)
    assert (content["source"], content["model"]) == (str(recording), str(model))
    assert content["words"][0].keys() == {"word", "start", "end"}
    assert content["text"].split() == [word["word"] for word in content["words"]]


def test_several_files_go_into_a_folder_and_those_that_are_none_are_named(
    model: Path, recording: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF and so on")
    (tmp_path / "out").mkdir()
    files = [recording, tmp_path / "broken.wav", tmp_path / "missing.wav"]
    result = run("transcribe", *files, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["talk.txt"]
    assert "broken.wav" in result.stderr and "missing.wav" in result.stderr
    assert "error: 2 of 3 files could not be transcribed" in result.stderr


def test_several_files_on_the_screen_are_told_apart(model: Path, recording: Path) -> None:
    result = run("transcribe", recording, recording, "--model", model)
    assert result.stdout.count(f"{recording}:\n") == 2


@pytest.mark.parametrize(
    ("args", "message", "exit_code"),
    [
        (["--model", "tiny"], "tiny is a model of type 'moshi', which speaks", 1),
        (["--pause", "1.5"], "1.5", 2),
        (["--format", "docx"], "docx", 2),
    ],
)
def test_what_cannot_be_done_is_one_line(
    recording: Path, args: list[str], message: str, exit_code: int
) -> None:
    result = run("transcribe", recording, *args)
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_an_output_that_would_replace_its_source_is_refused(recording: Path) -> None:
    result = run("transcribe", recording, "--out", recording)
    assert result.exit_code == 2
    assert recording.stat().st_size > 1000


def test_names_that_would_meet_in_the_folder_are_refused(
    model: Path, recording: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    result = run("transcribe", recording, recording, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "same name" in result.stderr


def test_run_writes_down_what_a_recogniser_hears(model: Path, recording: Path, tmp_path: Path) -> None:
    result = run(
        "run", recording, "--model", model, "--text", tmp_path / "text.json", "--out", tmp_path / "o.wav"
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "text.json").read_text())["words"]
    assert not (tmp_path / "o.wav").exists()
