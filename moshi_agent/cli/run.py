"""`moshi-agent run`: the options. The work is in `answering.py`, which is imported when there is some."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import click

from moshi_agent.cli.options import Seconds, device_option, model_option, threads_option
from moshi_agent.questions import find_question, sample_questions

_PATH = click.Path(path_type=Path)


class _Options(TypedDict):
    """What click passes for the options that `answering.Run` takes as they are."""

    out: Path
    text: Path | None
    model: str
    device: str
    threads: int
    greedy: bool
    seed: int | None
    tail: float
    stereo: bool
    live: bool


@click.command()
@click.argument("file", metavar="[QUESTION.WAV]", type=_PATH, required=False)
@click.option("--out", type=_PATH, default="answer.wav", show_default=True, help="Where the answer goes.")
@click.option("--text", type=_PATH, help="Where its text goes: JSON with every word's time, and the figures.")
@model_option
@device_option
@threads_option
@click.option(
    "--question", metavar="N|TEXT", help="A sample question, by its number or words, instead of a file."
)
@click.option("--list-questions", is_flag=True, help="Show the sample questions and exit.")
@click.option("--greedy", is_flag=True, help="Always take the likeliest token: the same answer every time.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Draw tokens so that the run can be repeated."
)
@click.option(
    "--tail", type=Seconds(600), default=4.0, show_default=True, help="Seconds to listen on in silence."
)
@click.option("--stereo", is_flag=True, help="Write caller left, bot right.")
@click.option("--live", is_flag=True, help="Feed the question at the speed of speech.")
def run(file: Path | None, question: str | None, list_questions: bool, **options: Unpack[_Options]) -> None:
    """Stream a spoken question through a model and write what it answers.

    Any audio file will do: wav, flac, ogg or mp3, at any rate. Without one, a sample question is asked.
    """
    if list_questions:
        for number, sample in enumerate(sample_questions(), 1):
            click.echo(f"{number:3}  {sample.text}")
        return
    if file is not None and question is not None:
        raise click.UsageError("a file and --question were given: one question at a time is accepted")
    if file is None:
        sample = find_question(question or "1", sample_questions())
        click.echo(f"Asking: {sample.text}", err=True)
        file = sample.path
    _refuse_same_file(question=file, out=options["out"], text=options["text"])

    from moshi_agent.cli.answering import Run, answer

    answer(Run(question=file, **options))


def _refuse_same_file(**paths: Path | None) -> None:
    """An answer must not replace the question, nor its text the answer."""
    named = {name: path.resolve() for name, path in paths.items() if path is not None}
    if len(set(named.values())) < len(named):
        raise click.UsageError(f"{', '.join(named)} must be different files")
