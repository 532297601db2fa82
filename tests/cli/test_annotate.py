"""`moshi-agent annotate`: words beside their audio, and the files that cannot be used named at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.cli import main
from moshi_agent.training.stereo.alignments import Alignment, read_sidecar
from moshi_agent.training.stereo.manifest import read_manifest
from tests.training.annotation.spoken_material import write_call

pytestmark = pytest.mark.skipif(shutil.which("flite") is None, reason="flite makes the speech")

NICE = "It is nice to talk with you."
WELCOME = "You are very welcome."
SHINING = "I hope the sun is shining."


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_a_recogniser_annotates_a_folder_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pocketsphinx")
    calls = tmp_path / "calls"
    truth = {
        "a": write_call(calls / "a.wav", NICE),
        "b": write_call(calls / "deep" / "b.flac", SHINING, rate_hz=12_000),
    }
    (calls / "a.json").write_text(
        json.dumps({"alignments": [["hm", [0.1, 0.2], "USER"]], "text_conditions": {"description": "calm"}})
    )
    listed = tmp_path / "data.jsonl"
    code = _run("annotate", calls, "--recogniser", "pocketsphinx", "--overwrite", "--manifest", listed)
    assert code == 0
    assert capsys.readouterr().out == "2 files annotated, 0 had their words already.\n"
    assert [entry.path for entry in read_manifest(listed)] == [calls / "a.wav", calls / "deep" / "b.flac"]
    for entry in read_manifest(listed):
        sidecar = read_sidecar(entry.path.with_suffix(".json"), entry.duration_s)
        said = [word for word in sidecar.alignments if word.speaker == "SPEAKER_MAIN"]
        expected = truth[entry.path.stem]
        assert [word.word for word in said] == [word.lower().strip(".") for word, _, _ in expected]
        assert [word.start_s for word in said] == pytest.approx([start for _, start, _ in expected], abs=0.15)
    kept = read_sidecar(calls / "a.json")
    assert kept.text_conditions == {"description": "calm"}
    assert Alignment("hm", 0.1, 0.2, "USER") in kept.alignments


def test_transcripts_are_spread_over_the_speech(tmp_path: Path) -> None:
    truth = write_call(tmp_path / "a.wav", NICE, WELCOME)
    (tmp_path / "a.txt").write_text(f"{NICE}\n{WELCOME}\n")
    assert _run("annotate", tmp_path, "--transcripts", "beside") == 0
    words = read_sidecar(tmp_path / "a.json", 10.0).alignments
    assert [word.word for word in words] == [word for word, _, _ in truth]
    assert [word.start_s for word in words] == pytest.approx([start for _, start, _ in truth], abs=0.4)


def test_words_that_are_there_are_kept_unless_they_are_to_be_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_call(tmp_path / "a.wav", WELCOME)
    (tmp_path / "a.txt").write_text(WELCOME)
    before = '{"alignments": [["mine", [0.5, 0.9], "SPEAKER_MAIN"]]}'
    (tmp_path / "a.json").write_text(before)
    assert _run("annotate", tmp_path, "--transcripts", "beside") == 0
    assert (tmp_path / "a.json").read_text() == before
    assert "0 files annotated, 1 had their words already." in capsys.readouterr().out
    assert _run("annotate", tmp_path, "--transcripts", "beside", "--overwrite") == 0
    assert len(read_sidecar(tmp_path / "a.json").alignments) == 4


def test_bad_files_among_good_ones_are_named_and_make_the_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good.wav", "other.wav", "corrupt.flac", "untold.wav", "taken.wav"):
        write_call(tmp_path / name, WELCOME)
        (tmp_path / name).with_suffix(".txt").write_text(WELCOME)
    content = (tmp_path / "corrupt.flac").read_bytes()
    (tmp_path / "corrupt.flac").write_bytes(content[: len(content) // 2] + b"\0" * (len(content) // 2))
    (tmp_path / "untold.txt").unlink()
    (tmp_path / "taken.json").write_text('{"version": 3}')
    sf.write(tmp_path / "mono.wav", np.zeros(24_000), 24_000)
    write_call(tmp_path / "good.flac", WELCOME)
    listed = tmp_path / "data.jsonl"
    assert _run("annotate", tmp_path, "--transcripts", "beside", "--manifest", listed) == 1
    printed = capsys.readouterr()
    assert "2 files annotated" in printed.out
    assert "error: 5 files could not be annotated" in printed.err
    for reason in (
        "corrupt.flac is damaged or truncated",
        "there is no transcript",
        "taken.json: wanted is",
        "mono.wav has 1 channel",
        "has its words in the same file, good.json",
    ):
        assert reason in printed.err
    assert [entry.path.name for entry in read_manifest(listed)] == ["good.flac", "other.wav"]
    assert (tmp_path / "taken.json").read_text() == '{"version": 3}'


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    for name in names:
        write_call(tmp_path / f"{name}.wav", WELCOME)
        (tmp_path / f"{name}.txt").write_text(WELCOME)
    assert _run("annotate", tmp_path, "--transcripts", "beside") == 0
    alone = [(tmp_path / f"{name}.json").read_bytes() for name in names]
    assert _run("annotate", tmp_path, "--transcripts", "beside", "--overwrite", "--processes", 2) == 0
    assert [(tmp_path / f"{name}.json").read_bytes() for name in names] == alone


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--recogniser", "pocketsphinx", "--transcripts", "beside"], 2, "one of them"),
        (["--transcripts", "nowhere"], 1, "'nowhere'"),
        (["--recogniser", "wisper"], 1, "accepted: whisper"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((24_000, 2)), 24_000)
    assert _run("annotate", tmp_path, *arguments) == code
    error = capsys.readouterr().err
    assert said in error and error.startswith("error:")


def test_a_folder_without_audio_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("annotate", tmp_path, "--transcripts", "beside") == 1
    assert "has no audio files" in capsys.readouterr().err
