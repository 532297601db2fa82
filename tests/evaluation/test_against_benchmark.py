"""The measures are those that Full-Duplex-Bench's own scripts compute for the same outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moshi_agent.evaluation import measures
from moshi_agent.evaluation.judge import BEHAVIORS, Judge
from moshi_agent.evaluation.measures import Measurer, read_reference
from moshi_agent.evaluation.samples import find_samples
from moshi_agent.evaluation.speech_spans import SpeechDetector
from moshi_agent.evaluation.suites import Result, measure
from tests.evaluation.benchmark_folders import make_folders
from tests.evaluation.judge_server import judge_server

pytest.importorskip("silero_vad")
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "evaluation" / "measures.json").read_text()
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    make_folders(folder)
    return folder


@pytest.fixture(scope="module")
def results(root: Path) -> dict[str, dict[str | None, Result]]:
    with judge_server() as server:
        judge = Judge(url=server.url, model="rule", key="secret")
        measurer = Measurer(read_reference(root / "icc_gt_distribution.json"), judge)
        found: dict[str, dict[str | None, Result]] = {}
        for result in measure(find_samples(root), measurer):
            found.setdefault(result.data_set, {})[result.words] = result
    assert {key for _, key, _ in server.asked} == {"Bearer secret"}
    return found


def _means(result: Result) -> dict[str, float]:
    return {figure.name: figure.mean for figure in result.figures}


def _values(result: Result, name: str) -> dict[str, float | None]:
    """Of each sample by its name, None where there is none."""
    pairs = zip(result.samples, result.values, strict=True)
    return {sample.folder.name: (values[name] or [None])[0] for sample, values in pairs}


def test_pauses(results: dict[str, dict[str | None, Result]]) -> None:
    golden, result = GOLDEN["pauses"], results["pauses"]["recogniser"]
    assert _values(result, measures.TAKE_OVER) == golden["samples"]
    assert _means(result) == {measures.TAKE_OVER: golden["take_over_rate"]}


def test_turns(results: dict[str, dict[str | None, Result]]) -> None:
    golden, result = GOLDEN["turns"], results["turns"]["recogniser"]
    latencies = {name: one["latency"] for name, one in golden["samples"].items()}
    clipped = {name: None if one is None else max(0, one) for name, one in latencies.items()}
    assert _values(result, measures.TAKE_OVER) == {
        name: one["takes_turn"] for name, one in golden["samples"].items()
    }
    assert _values(result, measures.LATENCY) == pytest.approx(clipped)
    assert _means(result) == pytest.approx(
        {measures.TAKE_OVER: golden["take_over_rate"], measures.LATENCY: golden["latency"]}
    )


def test_interruptions(results: dict[str, dict[str | None, Result]]) -> None:
    golden, result = GOLDEN["interruptions"], results["interruptions"]["recogniser"]
    assert _means(result) == pytest.approx(
        {
            measures.TAKE_OVER: golden["take_over_rate"],
            measures.RATING: golden["rating"],
            measures.LATENCY: golden["latency"],
        }
    )


def test_backchannels(results: dict[str, dict[str | None, Result]]) -> None:
    golden, result = GOLDEN["backchannels"], results["backchannels"]["recogniser"]
    for measure_name, key, digits in (
        (measures.TAKE_OVER, "takes_turn", 1e-9),
        (measures.DIVERGENCE, "divergence", 1e-9),
        (measures.FREQUENCY, "frequency", 5e-5),  # the script prints four digits
    ):
        of_each = {name: one[key] for name, one in golden["samples"].items()}
        assert _values(result, measure_name) == pytest.approx(of_each, abs=digits)
    assert _means(result) == pytest.approx(
        {
            measures.TAKE_OVER: golden["take_over_rate"],
            measures.FREQUENCY: golden["frequency"],
            measures.DIVERGENCE: golden["divergence"],
        },
        abs=5e-5,
    )


def test_latencies_of_overlaps(root: Path, results: dict[str, dict[str | None, Result]]) -> None:
    written = {
        sample.folder.name: json.loads((sample.folder / "latency_intervals.json").read_text())
        for sample in results["overlaps"][None].samples
    }
    assert written == GOLDEN["overlaps"]


def test_behavior_after_overlaps(results: dict[str, dict[str | None, Result]]) -> None:
    means = _means(results["overlaps"]["recogniser"])
    assert {name: means[name] for name in BEHAVIORS if means[name]} == pytest.approx(
        GOLDEN["behavior"],
        abs=0.005,  # the script rounds to two digits
    )


def test_the_detector_leaves_the_threads_of_torch_as_they_are() -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        SpeechDetector()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
