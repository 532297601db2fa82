"""`moshi-agent annotate`: the options. The work is in `moshi_agent.training.annotation`."""

from __future__ import annotations

from pathlib import Path

import click

from moshi_agent.cli.options import device_option

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("source", metavar="FOLDER|JSONL", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--recogniser",
    metavar="NAME",
    help="whisper[:MODEL], pocketsphinx, kyutai-stt:REPO|FOLDER, or MODULE:NAME of a callable of yours."
    "  [default: whisper:medium]",
)
@click.option(
    "--transcripts",
    metavar="beside|FOLDER|JSONL",
    help="Use these texts instead: .srt, .vtt or .txt by the name of the audio, or lines of path and text.",
)
@click.option("--language", metavar="CODE", help="Of the speech, such as en; by default it is found out.")
@click.option("--overwrite", is_flag=True, help="Also annotate what has its words already.")
@click.option(
    "--manifest", type=_PATH, help="Write the list of the conversations, for training, to this file."
)
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True)
@device_option
def annotate(
    source: Path,
    recogniser: str | None,
    transcripts: str | None,
    language: str | None,
    overwrite: bool,
    manifest: Path | None,
    processes: int,
    device: str,
) -> None:
    """Write the words of stereo conversations beside them, for training.

    The left channel is Moshi's: what is said on it goes to NAME.json beside NAME.wav, with times. FOLDER is
    searched for audio files; JSONL lists them. Files that cannot be used are named, and make the exit code 1.

    Texts without times are spread over the speech that is found: words are then some tenths of a second off.
    """
    if recogniser is not None and transcripts is not None:
        raise click.UsageError("--recogniser and --transcripts: one of them says where the words come from")
    from moshi_agent.training.annotation.annotate import AnnotationConfig, annotate
    from moshi_agent.training.stereo.manifest import write_manifest

    config = AnnotationConfig(
        root=source,
        recogniser=None if transcripts else recogniser or "whisper:medium",
        transcripts=transcripts,
        language=language,
        device=device,
        overwrite=overwrite,
    )
    done = annotate(config, processes)
    if manifest is not None:
        write_manifest(manifest, sorted(done.written + done.kept, key=lambda entry: entry.path))
    click.echo(f"{_files(len(done.written))} annotated, {len(done.kept)} had their words already.")
    if done.problems:
        click.echo(done.problems.report(most=1000), err=True)
    if done.problems.skipped:
        raise click.ClickException(f"{_files(len(done.problems.skipped))} could not be annotated")


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
