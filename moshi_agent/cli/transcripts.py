"""Audio files transcribed one after the other, each into a file or onto the screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import torch
from tqdm import tqdm

from moshi_agent.audio.files import read_header
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.cli.model import check_device
from moshi_agent.errors import AudioError, OutputError
from moshi_agent.outputs import naming, whole_file
from moshi_agent.transcription import (
    PauseConfig,
    Transcriber,
    TranscriptPart,
    transcribe_file,
    write_transcript,
)

_SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


@dataclass(frozen=True, kw_only=True)
class Transcribe:
    """What `moshi-agent transcribe` was asked to do."""

    files: tuple[Path, ...]
    model: str
    out: Path | None
    form: str  # one of `FORMATS`
    pause_s: float
    device: str
    threads: int


def transcribe_all(asked: Transcribe) -> None:
    """Transcribes every file that can be read, and says which cannot.

    Raises:
        MoshiAgentError: the model or the output is no good, or a file was.
    """
    _look_at(asked.files)
    places = _places(asked)
    check_device(asked.device)
    torch.set_num_threads(asked.threads)
    checkpoint = load_checkpoint(asked.model, device=asked.device, pack="auto", progress=True)
    transcriber = Transcriber(checkpoint, PauseConfig(horizon_s=asked.pause_s))
    failures: list[AudioError] = []
    for file, place in zip(asked.files, places, strict=True):
        try:
            _transcribe(file, place, asked, transcriber)
        except AudioError as error:
            if len(asked.files) == 1:
                raise
            click.echo(f"skipped: {error}", err=True)
            failures.append(error)
    if failures:
        raise AudioError(f"{len(failures)} of {len(asked.files)} files could not be transcribed")


def _look_at(files: tuple[Path, ...]) -> None:
    """Raises AudioError where none of the files can be read: before a model is fetched for them."""
    errors: list[AudioError] = []
    for file in files:
        try:
            read_header(file)
            return
        except AudioError as error:
            errors.append(error)
    raise errors[0]


def _places(asked: Transcribe) -> list[Path | None]:
    """Where each transcript goes; None is the screen."""
    if asked.out is None:
        return [None] * len(asked.files)
    if len(asked.files) == 1 and not asked.out.is_dir():
        return [asked.out]
    if not asked.out.is_dir():
        raise OutputError(f"{asked.out} is no folder; accepted: a folder that exists, for several files")
    places = [asked.out / (file.stem + _SUFFIXES[asked.form]) for file in asked.files]
    if len(set(places)) < len(places):
        raise OutputError("two files have the same name; accepted: files whose transcripts differ in name")
    return [*places]


def _transcribe(file: Path, place: Path | None, asked: Transcribe, transcriber: Transcriber) -> None:
    started, duration_s = time.monotonic(), read_header(file).duration_s
    if place is None and len(asked.files) > 1:
        click.echo(f"{file}:", err=asked.form == "json")
    with _opened(place) as out:
        # Beside text on the same screen, a bar would only be in its way.
        visible = place is not None and sys.stderr.isatty()
        bar: tqdm[Any] = tqdm(total=round(duration_s), unit="s", disable=not visible, leave=False)
        with bar:
            parts = _counted(transcribe_file(file, transcriber), transcriber, bar)
            write_transcript(parts, out, asked.form, source=str(file), model=transcriber.recogniser.name)
    seconds = time.monotonic() - started
    if place is not None:
        click.echo(f"Written: {place}")
    figures = f"{transcriber.audio_s:.1f} s of audio in {seconds:.1f} s"
    click.echo(f"{figures}, real-time factor {seconds / max(transcriber.audio_s, 0.08):.3f}", err=True)


def _counted(
    parts: Iterable[TranscriptPart], transcriber: Transcriber, bar: tqdm[Any]
) -> Iterator[TranscriptPart]:
    for part in parts:
        bar.update(int(transcriber.audio_s) - bar.n)
        yield part


@contextmanager
def _opened(place: Path | None) -> Generator[TextIO]:
    """The file, which appears whole or not at all; or the screen."""
    if place is None:
        yield sys.stdout
        return
    with whole_file(place) as temporary, naming(place), temporary.open("w", encoding="utf-8") as file:
        yield file
