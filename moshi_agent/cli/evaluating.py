"""A folder of samples answered by a model, and measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import click
from tqdm import tqdm

from moshi_agent import Engine, SessionConfig
from moshi_agent.cli.model import check_device
from moshi_agent.errors import DataError
from moshi_agent.evaluation.answering import answer_samples
from moshi_agent.evaluation.judge import Judge
from moshi_agent.evaluation.measures import Measurer, read_reference
from moshi_agent.evaluation.recognising import recognise
from moshi_agent.evaluation.report import write_report
from moshi_agent.evaluation.samples import Sample, find_samples
from moshi_agent.evaluation.small_suite import make_small_suite
from moshi_agent.evaluation.suites import Result, left_out, measure
from moshi_agent.outputs import naming, whole_file
from moshi_agent.plural import counted


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What `moshi-agent evaluate` was asked to do."""

    folder: Path
    model: str | None
    lora: str | None
    device: str
    threads: int
    suite: Literal["fdb-v1", "fdb-v1.5", "small"] | None
    rows: int
    seed: int
    voice: str | None
    role: str | None
    recogniser: str | None
    language: str | None
    benchmark: Path | None  # a checkout's `evaluation`
    judge_url: str | None
    judge_model: str
    judge_key: str | None = field(repr=False)
    json_file: Path | None
    report: Path | None


def evaluate(asked: Evaluate) -> None:
    """Does it, prints the figures, and writes what was asked for.

    Raises:
        MoshiAgentError: a sample, the model, the judge or an output is no good.
    """
    measurer = _measurer(asked)
    if asked.suite == "small":
        make_small_suite(asked.folder)
    samples = find_samples(asked.folder, None if asked.suite == "small" else asked.suite)
    measurer.prepare(samples)
    if asked.model is not None:
        _answer(asked, asked.model, samples)
    if asked.recogniser is not None:
        _recognise(asked, asked.recogniser, samples)
    results = measure(samples, measurer)
    missing = left_out(samples, measurer)
    _print(results, missing)
    name = asked.model or "outputs as they are"
    if asked.json_file is not None:
        _write_json(asked.json_file, name, results, missing)
    if asked.report is not None:
        write_report(asked.report, name, results, missing)


def _measurer(asked: Evaluate) -> Measurer:
    """Told before any work is done: a judge or a reference that is no good."""
    reference = asked.benchmark and read_reference(asked.benchmark / "icc_gt_distribution.json")
    if asked.judge_url is None:
        return Measurer(reference)
    judge = Judge(url=asked.judge_url, model=asked.judge_model, key=asked.judge_key)
    if asked.benchmark is not None:
        instruction = asked.benchmark / "instruction" / "behavior.txt"
        try:
            text = instruction.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{instruction} cannot be read: {error.strerror}") from error
        judge = replace(judge, behavior_instruction=text)
    return Measurer(reference, judge)


def _answer(asked: Evaluate, model: str, samples: list[Sample]) -> None:
    check_device(asked.device)
    inputs = sum(len(sample.inputs) for sample in samples)
    if not inputs:
        raise DataError(f"{asked.folder} has no input.wav that {model} could answer")
    engine = Engine.load(
        model,
        shared=False,
        device=asked.device,
        threads=asked.threads,
        lora=asked.lora,
        capacity=min(asked.rows, inputs),
        admit_by_time=False,  # nobody waits for an answer in time
    )
    config = SessionConfig(seed=asked.seed, voice=asked.voice, role=asked.role)
    with engine, tqdm(total=inputs, desc="answering", unit="input", disable=None, leave=False) as bar:
        answer_samples(engine, samples, config, told=bar.update)


def _recognise(asked: Evaluate, name: str, samples: list[Sample]) -> None:
    from moshi_agent.training.annotation.recogniser import open_recogniser

    recogniser = open_recogniser(name, language=asked.language, device=asked.device)
    for sample in tqdm(samples, desc="recognising", unit="sample", disable=None, leave=False):
        recognise(sample, recogniser)


def _print(results: list[Result], missing: list[str]) -> None:
    for result in results:
        by = {
            "monologue": "words of the model's text",
            "recogniser": "words of the recogniser",
            None: "sound",
        }
        figures = ", ".join(map(str, result.figures))
        click.echo(
            f"{result.data_set} ({result.task}, {counted(len(result.samples), 'sample')}, "
            f"{by[result.words]}): {figures}"
        )
    for line in missing:
        click.echo(f"Left out: {line}.")


def _write_json(path: Path, name: str, results: list[Result], missing: list[str]) -> None:
    content: dict[str, Any] = {
        "model": name,
        "results": [result.as_json() for result in results],
        "left_out": missing,
    }
    with whole_file(path) as temporary, naming(path):
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
