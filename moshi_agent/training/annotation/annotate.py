"""Writes the words of many recordings beside them; names those it cannot do, and goes on with the rest."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from moshi_agent.audio.files import read_channels, read_header
from moshi_agent.audio.framing import Samples
from moshi_agent.errors import AudioError, DataError
from moshi_agent.training.annotation.placed_word import PlacedWord, Recogniser
from moshi_agent.training.annotation.recogniser import open_recogniser
from moshi_agent.training.annotation.speech_spans import speech_spans
from moshi_agent.training.annotation.spreading import spread_cues
from moshi_agent.training.annotation.transcripts import Transcripts, open_transcripts
from moshi_agent.training.stereo.alignments import (
    MAIN_SPEAKER,
    Alignment,
    Sidecar,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from moshi_agent.training.stereo.manifest import AUDIO_SUFFIXES, ManifestEntry, list_audio
from moshi_agent.training.stereo.problems import Problems

_SHORTEST_S = 0.02  # words without any length are left out of training

WordSource = Callable[[Path, Samples], Iterable[tuple[str, float, float]]]


@dataclass(frozen=True, kw_only=True)
class AnnotationConfig:
    """Says where the words come from."""

    root: Path  # a folder of audio files, or a manifest
    recogniser: str | None = None  # see `open_recogniser`; needed unless there are transcripts
    transcripts: str | None = None  # see `open_transcripts`
    language: str | None = None
    device: str = "cpu"
    overwrite: bool = False


@dataclass
class Annotated:
    """Counts what was done: conversations with words, those among them that had words before."""

    written: list[ManifestEntry] = field(default_factory=list[ManifestEntry])
    kept: list[ManifestEntry] = field(default_factory=list[ManifestEntry])
    problems: Problems = field(default_factory=Problems)


class _Result(NamedTuple):
    path: Path
    outcome: Literal["written", "kept", "failed"]
    duration_s: float = 0.0
    remark: str = ""


def find_recordings(root: Path) -> list[Path]:
    """Finds the audio files of a manifest, or in a folder and all below it. Raises DataError if none."""
    found = list_audio(root)
    if not found:
        raise DataError(f"{root} has no audio files in it; looked for: {' '.join(AUDIO_SUFFIXES)}")
    return found


def annotate(config: AnnotationConfig, processes: int = 1) -> Annotated:
    """Writes the words of the left channel beside each recording that has none.

    With `overwrite`, the words beside it are replaced, but for its conditions and those of other speakers.

    Raises:
        ConfigError: the recogniser or the transcripts cannot be opened.
        DataError: there are no recordings.
    """
    paths = find_recordings(config.root)
    done = Annotated()
    paths = list(_with_own_sidecar(paths, done.problems))
    with tqdm(total=len(paths), desc="annotating", unit="file", disable=None, leave=False) as bar:
        for result in _results(config, paths, processes):
            bar.update()
            _count(result, done)
    return done


def _results(config: AnnotationConfig, paths: list[Path], processes: int) -> Iterator[_Result]:
    work = partial(annotate_file, config)
    if processes <= 1 or len(paths) <= 1:
        yield from map(work, paths)
        return
    # A recogniser with threads of its own does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(paths)), context) as pool:
        yield from pool.map(work, paths)


def _count(result: _Result, done: Annotated) -> None:
    if result.outcome == "failed":
        done.problems.skip(result.path, result.remark)
        return
    entries = done.written if result.outcome == "written" else done.kept
    entries.append(ManifestEntry(result.path, result.duration_s))
    if result.remark:
        done.problems.note(result.path, result.remark)


def _with_own_sidecar(paths: Iterable[Path], problems: Problems) -> Iterator[Path]:
    """Leaves out what would share its words with another file, `a.flac` beside `a.wav`."""
    owners: dict[Path, Path] = {}
    for path in paths:
        owner = owners.setdefault(sidecar_path(path), path)
        if owner is path:
            yield path
        else:
            problems.skip(path, f"{owner} has its words in the same file, {sidecar_path(path).name}")


def annotate_file(config: AnnotationConfig, path: Path) -> _Result:
    """Writes the words beside one recording. A recording that is no good is a result, and no exception."""
    source = None if not config.overwrite and sidecar_path(path).exists() else _open_source(config)
    try:
        header = read_header(path)
        if header.channels != 2:
            raise DataError(f"{path} has {header.channels} channel(s); needed are two, Moshi on the left")
        if source is None:
            read_sidecar(sidecar_path(path), header.duration_s)
            return _Result(path, "kept", header.duration_s)
        samples = read_channels(path)[:, 0].copy()
        words = _in_order(source(path, samples), header.duration_s)
        before = _before(path)
        others = [word for word in before.alignments if word.speaker != MAIN_SPEAKER]
        words_of_all = sorted(words + others, key=_start)
        write_sidecar(sidecar_path(path), words_of_all, before.text_conditions, greets=before.greets)
        return _Result(path, "written", header.duration_s, "" if words else "no words were found in it")
    except (AudioError, DataError) as error:
        return _Result(path, "failed", remark=str(error))


def _start(word: Alignment) -> float:
    return word.start_s


def _before(path: Path) -> Sidecar:
    with suppress(DataError):
        return read_sidecar(sidecar_path(path))
    return Sidecar(())


def _in_order(words: Iterable[tuple[str, float, float]], duration_s: float) -> list[Alignment]:
    """Words as training takes them: inside the file, not empty, and of some length."""
    kept: list[Alignment] = []
    for word, start_s, end_s in words:
        if not (word.strip() and math.isfinite(start_s) and math.isfinite(end_s)):
            continue
        start_s = max(start_s, 0.0)
        if start_s < duration_s:
            end_s = max(min(end_s, duration_s), start_s + _SHORTEST_S)
            kept.append(Alignment(word.strip(), start_s, end_s))
    return sorted(kept, key=_start)


@lru_cache(maxsize=1)
def _open_source(config: AnnotationConfig) -> WordSource:
    """What gives the words: loaded once in each process."""
    if config.transcripts is not None:
        root = config.root if config.root.is_dir() else config.root.parent
        return partial(_from_transcript, open_transcripts(config.transcripts, root))
    assert config.recogniser is not None, "a recogniser or transcripts"
    recogniser = open_recogniser(config.recogniser, language=config.language, device=config.device)
    return partial(_recognised, recogniser)


def _from_transcript(transcripts: Transcripts, path: Path, samples: Samples) -> list[PlacedWord]:
    cues = transcripts.of(path)
    return spread_cues(cues, speech_spans(samples))


def _recognised(recogniser: Recogniser, path: Path, samples: Samples) -> Iterable[tuple[str, float, float]]:
    return recogniser(samples)
