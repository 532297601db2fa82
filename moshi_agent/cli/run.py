"""`moshi-agent run`: the options. The work is in `answering.py`, which is imported when there is some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from moshi_agent.cli.options import (
    Seconds,
    UpTo,
    cuda_graphs_option,
    device_option,
    dtype_option,
    kv_cache_option,
    lora_option,
    model_option,
    threads_option,
)
from moshi_agent.cli.questions import list_samples
from moshi_agent.questions import find_question, sample_questions

if TYPE_CHECKING:
    from moshi_agent.config import KVCache

_PATH = click.Path(path_type=Path)


class _Options(TypedDict):
    """What click passes for the options that `answering.Run` takes as they are."""

    out: Path
    text: Path | None
    model: str
    lora: str | None
    device: str
    threads: int
    dtype: str | None
    kv_cache: KVCache
    cuda_graphs: bool
    greedy: bool
    seed: int | None
    voice: str | None
    role: str | None
    cfg_coef: float | None
    conditions: dict[str, str]
    tail: float | None
    stereo: bool
    live: bool


def _conditions(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """`NAME=VALUE`, as often as there are conditions."""
    pairs = [value.partition("=") for value in values]
    if not all(name and value for name, _, value in pairs) or len({name for name, _, _ in pairs}) < len(
        pairs
    ):
        raise click.BadParameter(f"{' '.join(values)!r}: NAME=VALUE is accepted, once for each name")
    return {name: value for name, _, value in pairs}


@click.command()
@click.argument("file", metavar="[SPEECH.WAV]", type=_PATH, required=False)
@click.option("--out", type=_PATH, default="answer.wav", show_default=True, help="Where the answer goes.")
@click.option("--text", type=_PATH, help="Where its text goes: JSON with every word's time, and the figures.")
@model_option
@lora_option
@device_option
@threads_option
@dtype_option
@kv_cache_option
@cuda_graphs_option
@click.option(
    "--question", metavar="N|TEXT", help="A sample question, by its number or words, instead of a file."
)
@click.option("--list-questions", is_flag=True, help="Show the sample questions and exit.")
@click.option("--greedy", is_flag=True, help="Always take the likeliest token: the same answer every time.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Draw tokens so that the run can be repeated."
)
@click.option("--voice", metavar="NAME|FILE", help="Of a PersonaPlex: one of its own, or a recording.")
@click.option("--role", metavar="TEXT", help="What a PersonaPlex is to be.")
@click.option("--cfg-coef", type=UpTo(100), help="Guidance: 3 brings a translation closer to the voice.")
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_conditions,
    help="For a model with conditions; those of Hibiki are known.",
)
@click.option(
    "--tail",
    type=Seconds(600),
    help="Seconds to listen on in silence. A translation ends when all is said, after as many at the latest."
    "  [default: 4; 60 for a translation]",
)
@click.option("--stereo", is_flag=True, help="Write caller left, bot right.")
@click.option("--live", is_flag=True, help="Feed the speech at the speed of speech.")
def run(file: Path | None, question: str | None, list_questions: bool, **options: Unpack[_Options]) -> None:
    """Stream speech through a model and write what it answers, or how it translates it.

    Any audio file will do: wav, flac, ogg or mp3, at any rate. Without one, a sample question is asked.
    """
    if list_questions:
        list_samples()
        return
    if file is not None and question is not None:
        raise click.UsageError("a file and --question were given: one question at a time is accepted")
    asked = None
    if file is None:
        asked = find_question(question or "1", sample_questions())
        file = asked.path
    _refuse_same_file({"the speech": file, "--out": options["out"], "--text": options["text"]})
    if asked is not None:
        click.echo(f"Asking: {asked.text}", err=True)

    from moshi_agent.cli.answering import Run, answer

    answer(Run(question=file, **options))


def _refuse_same_file(paths: Mapping[str, Path | None]) -> None:
    """An answer must not replace the question, nor its text the answer."""
    named = {name: path.resolve() for name, path in paths.items() if path is not None}
    if len(set(named.values())) < len(named):
        raise click.UsageError(f"{', '.join(named)} must be different files")
