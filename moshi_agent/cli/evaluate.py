"""`moshi-agent evaluate`: the options. The work is in `evaluating.py`, imported when there is some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moshi_agent.cli.options import device_option, lora_option, threads_option

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--model",
    metavar="tiny|REPO|FOLDER",
    help="The model that is to answer. Without one, the outputs that are there are measured.",
)
@lora_option
@device_option
@threads_option
@click.option(
    "--suite",
    type=click.Choice(["fdb-v1", "fdb-v1.5", "small"]),
    help="Only the samples of one version of Full-Duplex-Bench; small makes a few of our own in FOLDER.",
)
@click.option("--rows", type=click.IntRange(1, 256), default=8, show_default=True, help="Samples at once.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--voice", metavar="NAME", help="Of a PersonaPlex.")
@click.option("--role", metavar="TEXT", help="What a PersonaPlex is to be.")
@click.option(
    "--recogniser",
    metavar="NAME",
    help="Who listens to the answers, beside the model's own text: as for `annotate`.",
)
@click.option("--language", metavar="CODE", help="Of the speech, such as en; by default it is found out.")
@click.option(
    "--benchmark",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder `evaluation` of a checkout of Full-Duplex-Bench, for what cannot be shipped here.",
)
@click.option("--judge-url", metavar="URL", help="A server with OpenAI's chat completions, which judges.")
@click.option("--judge-model", default="gpt-4o-2024-08-06", show_default=True)
@click.option("--judge-key", envvar="OPENAI_API_KEY", help="Its key.")
@click.option("--json", "json_file", type=_PATH, help="Write the figures, and those of each sample.")
@click.option("--report", type=_PATH, help="Write a page with pictures: HTML in one file.")
def evaluate(**options: Any) -> None:
    """Measure how a model takes turns, as Full-Duplex-Bench does.

    FOLDER has the benchmark's layout, one data set or many: folders with input.wav and pause.json,
    turn_taking.json, interrupt.json or metadata.json. The model's output.wav and its words are written there.
    """
    from moshi_agent.cli.evaluating import Evaluate, evaluate

    evaluate(Evaluate(**options))
