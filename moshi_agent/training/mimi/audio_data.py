"""The recordings of a codec's training, and the pieces of them that it hears."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moshi_agent.audio.files import read_header, read_piece
from moshi_agent.audio.framing import Samples
from moshi_agent.config import MimiConfig
from moshi_agent.errors import AudioError, DataError
from moshi_agent.training.runs.settings import require_range
from moshi_agent.training.stereo.manifest import list_audio
from moshi_agent.training.stereo.problems import Problems

_TRIES = 100  # pieces drawn before a data set counts as unreadable


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Says where the recordings are, of any format and rate. Of several channels the mean is used."""

    train: Path  # a folder, searched to its depths, or a manifest, see read_manifest
    valid: Path | None = None  # the same for the evaluation; None takes files away from `train`
    valid_share: float = 0.05  # of the files, where `valid` is None; at least one
    workers: int = 2  # threads that read

    def __post_init__(self) -> None:
        require_range("[data] valid_share", self.valid_share, 0, 0.9)
        require_range("[data] workers", self.workers, 1, 256)


@dataclass(frozen=True, slots=True)
class AudioFile:
    """Names a recording."""

    path: Path
    duration_s: float


@dataclass(frozen=True)
class Place:
    """Says where a piece is from."""

    path: Path
    start_s: float


@dataclass(frozen=True)
class Batch:
    """Holds pieces of one length, mono."""

    audio: Tensor = field(repr=False)  # [B, T] float32; silence where a recording is shorter
    places: list[Place]


def find_audio(source: Path, problems: Problems) -> list[AudioFile]:
    """Finds the recordings of a folder or a manifest, sorted by path. The others' faults go to `problems`.

    Raises:
        DataError: there is no such folder or manifest, or not one recording in it can be used.
    """
    files: list[AudioFile] = []
    for path in sorted(list_audio(source)):
        try:
            files.append(AudioFile(path, read_header(path).duration_s))
        except AudioError as error:
            problems.skip(path, error)
    if not files:
        raise DataError(f"{source} has no recording that can be used\n{problems.report(5)}".rstrip())
    return files


def open_data(config: DataConfig, problems: Problems) -> tuple[list[AudioFile], list[AudioFile]]:
    """Opens the recordings to train with, and those to evaluate with.

    Raises:
        DataError: as `find_audio`, or there is but one file and none to evaluate with.
    """
    files = find_audio(config.train, problems)
    if config.valid is not None:
        return files, find_audio(config.valid, problems)
    count = max(round(len(files) * config.valid_share), 1)
    if count >= len(files):
        raise DataError(f"{config.train} has one recording only; [data] valid has to name another")
    valid = set(random.Random(0).sample(range(len(files)), count))
    return (
        [file for index, file in enumerate(files) if index not in valid],
        [file for index, file in enumerate(files) if index in valid],
    )


class Pieces:
    """Draws pieces of recordings: each second of them is as likely as any other."""

    def __init__(
        self, files: Sequence[AudioFile], samples: int, config: MimiConfig, problems: Problems
    ) -> None:
        """Takes the recordings, and how many `samples` a piece has, at the codec's rate."""
        self.files = list(files)
        self.samples = samples
        self.sample_rate_hz = config.sample_rate
        self.problems = problems
        self._ends_s = np.array(list(accumulate(file.duration_s for file in files)))

    @property
    def total_s(self) -> float:
        """Counts the seconds of audio."""
        return float(self._ends_s[-1])

    def draw(self, *seed: int) -> tuple[Samples, Place]:
        """Draws a piece [samples], which the seed alone decides; an unreadable one makes way for another.

        Raises:
            DataError: nothing can be read.
        """
        rng = np.random.default_rng(seed)
        for _ in range(_TRIES):
            place = self._place(rng)
            try:
                return self._read(place), place
            except AudioError as error:
                self.problems.skip(place.path, error)
        raise DataError(f"{_TRIES} pieces in a row cannot be read\n{self.problems.report(5)}")

    def batch(self, rows: int, *seed: int) -> Batch:
        """Draws several pieces as a batch."""
        drawn = [self.draw(*seed, row) for row in range(rows)]
        return stacked(drawn)

    def _place(self, rng: np.random.Generator) -> Place:
        drawn_s = rng.uniform(0, self.total_s)
        file = self.files[min(int(np.searchsorted(self._ends_s, drawn_s)), len(self.files) - 1)]
        room_s = max(file.duration_s - self.samples / self.sample_rate_hz, 0.0)
        return Place(file.path, rng.uniform(0, room_s) if room_s else 0.0)

    def _read(self, place: Place) -> Samples:
        # A little more, since resampling rounds.
        duration_s = self.samples / self.sample_rate_hz + 0.01
        heard = read_piece(place.path, place.start_s, duration_s, self.sample_rate_hz)[: self.samples]
        return np.pad(heard, (0, self.samples - len(heard)))


class BatchReader:
    """Reads the batches of a training in threads, while the one before is learnt from.

    Which pieces are in a batch follows from its number, the rank and the seed, and from nothing else.
    """

    def __init__(self, pieces: Pieces, rows: int, seed: tuple[int, ...], workers: int) -> None:
        self.pieces = pieces
        self.rows = rows
        self._seed = seed
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="audio")
        self._ahead: dict[int, list[Future[tuple[Samples, Place]]]] = {}

    def batch(self, number: int) -> Batch:
        """Returns a batch by its number. Raises DataError as `Pieces.draw` does."""
        rows = self._ahead.get(number) or self._start(number)
        self._ahead = {number + 1: self._start(number + 1)}
        return stacked([row.result() for row in rows])

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _start(self, number: int) -> list[Future[tuple[Samples, Place]]]:
        return [self._threads.submit(self.pieces.draw, *self._seed, number, row) for row in range(self.rows)]


def stacked(drawn: Sequence[tuple[Samples, Place]]) -> Batch:
    """Stacks pieces of one length to a batch."""
    audio = torch.from_numpy(np.stack([samples for samples, _ in drawn]))
    return Batch(audio, [place for _, place in drawn])
