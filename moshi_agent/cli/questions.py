"""`moshi-agent questions`: the sample questions as files, for programs and clients that take a recording."""

from __future__ import annotations

from pathlib import Path

import click

from moshi_agent.plural import counted
from moshi_agent.questions import sample_questions

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("folder", type=_FOLDER, required=False)
def questions(folder: Path | None) -> None:
    """List the sample questions, or write them into FOLDER as wav files.

    They are what the built-in model answers. The files have 16 bits, mono, at 24 kHz; files of the same names
    are replaced.
    """
    if folder is None:
        list_samples()
        return

    from moshi_agent.audio.files import read_audio, write_audio
    from moshi_agent.audio.framing import SAMPLE_RATE_HZ
    from moshi_agent.outputs import naming

    samples = sample_questions()
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        path = folder / f"{sample.path.stem}.wav"
        write_audio(path, read_audio(sample.path), SAMPLE_RATE_HZ)
    click.echo(f"Written: {counted(len(samples), 'question')} to {folder}")


def list_samples() -> None:
    """Prints the sample questions with their numbers."""
    for number, sample in enumerate(sample_questions(), 1):
        click.echo(f"{number:3}  {sample.text}")
