"""`moshi-agent evaluate` as it is typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.framing import Samples
from moshi_agent.cli import main
from moshi_agent.evaluation.small_suite import make_small_suite
from moshi_agent.questions import sample_questions
from tests.evaluation.judge_server import judge_server


def listener(samples: Samples) -> Iterator[tuple[str, float, float]]:
    """A recogniser that hears one long word where there is any sound."""
    loud = np.flatnonzero(abs(samples) > 0.05)
    if len(loud):
        yield "something", float(loud[0]) / 24_000, float(loud[-1]) / 24_000


def _run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One turn and one interruption of the small suite, answered by the built-in model."""
    whole, root = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("suite")
    make_small_suite(whole)
    for name in ("smooth_turn_taking", "user_interruption"):
        (root / name).mkdir()
        (whole / name / "0").rename(root / name / "0")
    assert _run(root, "--model", "tiny", "--rows", "2") == 0
    return root


def test_the_model_answers_in_the_form_of_the_benchmark(suite: Path) -> None:
    """As long as the input, at the model's rate; its words where they are said."""
    folder = suite / "smooth_turn_taking" / "0"
    heard, said = sf.info(folder / "input.wav"), sf.info(folder / "output.wav")
    assert (said.frames, said.samplerate, said.channels) == (heard.frames, 24_000, 1)
    words = json.loads((folder / "output_monologue.json").read_text())
    assert words["text"] and words["text"].split() == [chunk["text"] for chunk in words["chunks"]]
    sound, _ = sf.read(folder / "output.wav")
    times = [chunk["timestamp"] for chunk in words["chunks"]]
    spoken = [abs(sound[int(start * 24_000) : int(end * 24_000)]).max() for start, end in times]
    assert min(spoken) > 0.01, "a word where nothing is heard"
    [turn] = json.loads((folder / "turn_taking.json").read_text())
    assert times[0][0] > turn["timestamp"][0] - 1


def test_it_prints_the_figures_of_both_who_write_words(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures.json"
    with judge_server() as server:
        judge = ("--judge-url", server.url, "--judge-model", "rule")
        recogniser = f"{__name__}:listener"
        assert _run(suite, "--recogniser", recogniser, *judge, "--json", written) == 0
    printed = capsys.readouterr().out
    assert "smooth_turn_taking (smooth_turn_taking, 1 sample, words of the model's text)" in printed
    assert "user_interruption (user_interruption, 1 sample, words of the recogniser)" in printed
    assert re.search(r"rating [0-5]\.000 of 5", printed)
    assert "Left out" not in printed
    results: list[dict[str, Any]] = json.loads(written.read_text())["results"]
    assert {result["words"] for result in results} == {"monologue", "recogniser"}
    folder = suite / "user_interruption" / "0"
    after = json.loads((folder / "interrupt.json").read_text())[0]["timestamp"][1]
    heard = json.loads((folder / "output.json").read_text())
    assert heard["chunks"][0]["timestamp"][0] >= after, "a recogniser hears what comes after the interruption"
    assert json.loads((folder / "rating.json").read_text())["rating"] in range(6)


def test_a_new_output_takes_the_words_of_the_old_one_away(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    sf.write(folder / "input.wav", np.zeros(4_000), 8_000)
    (folder / "pause.json").write_text('[{"text": "[PAUSE]", "timestamp": [0.1, 0.2]}]')
    (folder / "output.json").write_text('{"text": "old", "chunks": []}')
    assert _run(tmp_path, "--model", "tiny") == 0
    assert not (folder / "output.json").exists()


def test_the_page_stands_by_itself(suite: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert _run(suite, "--report", page) == 0
    text = page.read_text()
    assert not re.search(r"(src|href)=|https?://", text)
    assert text.count("<svg") >= 4  # two samples, and their latencies
    assert sample_questions()[0].text not in text or "<script" not in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--model", "tiny"), "no samples in it"),
        (("--suite", "fdb-v1"), "no samples in it"),
        (("--judge-url", "localhost:8000"), "the judge's URL"),
        (("--benchmark", "."), "icc_gt_distribution.json cannot be read"),
    ],
)
def test_what_is_no_good_is_one_line(
    tmp_path: Path, given: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, *given) == 1
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
