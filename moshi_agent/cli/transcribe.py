"""`moshi-agent transcribe`: the options. The work is in `transcripts.py`, imported when there is some."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import click

from moshi_agent.cli.options import device_option, threads_option

_PATH = click.Path(path_type=Path)
_FORMATS = ("text", "json", "srt", "vtt")


class _Options(TypedDict):
    """What click passes for the options that `transcripts.Transcribe` takes as they are."""

    model: str
    out: Path | None
    device: str
    threads: int


@click.command()
@click.argument("files", metavar="FILE...", type=_PATH, nargs=-1, required=True)
@click.option(
    "--model",
    default="kyutai/stt-1b-en_fr-candle",
    show_default=True,
    metavar="REPO|FOLDER",
    help="A checkpoint for speech recognition: a Hugging Face repository or a folder. Of those published,"
    " only this one tells pauses.",
)
@click.option("--out", type=_PATH, help="Where it goes instead of the screen: a file; a folder for several.")
@click.option(
    "--format", "form", type=click.Choice(_FORMATS), help="By default as the name of --out says, or text."
)
@click.option(
    "--pause",
    type=click.Choice(["0.5", "1", "2", "3"]),
    default="2",
    show_default=True,
    help="Seconds that the speaker has to be expected to be silent, for models that tell.",
)
@device_option
@threads_option
def transcribe(files: tuple[Path, ...], form: str | None, pause: str, **options: Unpack[_Options]) -> None:
    """Write down what is said in audio files, with the time of every word.

    Any audio file will do, however long: wav, flac, ogg or mp3, at any rate.
    """
    out = options["out"]
    if form is None:
        suffix = "" if out is None else out.suffix.removeprefix(".").lower()
        form = suffix if suffix in _FORMATS else "text"
    if out is not None and out.resolve() in [file.resolve() for file in files]:
        raise click.UsageError(f"--out {out} is a file to be transcribed: another one is needed")

    from moshi_agent.cli.transcripts import Transcribe, transcribe_all

    transcribe_all(Transcribe(files=files, form=form, pause_s=float(pause), **options))
