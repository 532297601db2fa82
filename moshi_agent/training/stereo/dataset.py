"""Crops of stereo conversations as the language model sees them: text, Moshi's codes, the user's codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from moshi_agent.errors import AudioError, ConfigError, DataError
from moshi_agent.models.mimi import MimiModel
from moshi_agent.text.pieces import Tokenizer
from moshi_agent.training.stereo.code_store import CodeStore
from moshi_agent.training.stereo.draw_order import DrawOrder
from moshi_agent.training.stereo.encode import Encoding
from moshi_agent.training.stereo.interleaver import Crowded, Interleaver
from moshi_agent.training.stereo.manifest import read_manifest
from moshi_agent.training.stereo.problems import Problems
from moshi_agent.training.stereo.recording import Recording, open_recordings
from moshi_agent.training.stereo.references import ReferenceStream, references_path

# Of audio for a crop of its own: a decoder may give a little less than a header says (mp3: 1152 samples).
_LEAST_FRAMES = 0.61

NOTHING = -1  # the token of no embedding, in frames that a recording has not


@dataclass(frozen=True, kw_only=True)
class StereoConfig:
    """Says how recordings become crops."""

    duration_s: float = 100.0  # of a crop; the last one of a recording is filled up with NOTHING
    seed: int = 0  # of the order of the crops, and of their shifts
    shift_crops: bool = False  # draws each crop up to half its length earlier or later
    crowded: Crowded = "drop"  # see Interleaver
    encoding: Encoding = "whole"  # see CodeStore
    cache: Path | None = None  # a folder for the codes
    text_padding: int = 3
    text_end_of_padding: int = 0
    text_begin: int = 1  # what asks the model to greet, in the first frame
    text_initial: int | None = None  # what a new reference begins with; None reads no references

    def __post_init__(self) -> None:
        if not 0 < self.duration_s < math.inf:
            raise ConfigError(f"duration_s={self.duration_s}; accepted: a number of seconds above 0")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}; accepted: 0 or more")
        if self.crowded not in ("drop", "shift") or self.encoding not in ("whole", "live"):
            raise ConfigError(
                f"crowded={self.crowded!r}, encoding={self.encoding!r}; "
                "accepted: drop or shift, whole or live"
            )


@dataclass(frozen=True)
class Crop:
    """Names a piece of one recording."""

    codes: Tensor = field(repr=False)  # [1 + 2 codebooks, frames] int64: text, left, right; undelayed
    valid_frames: int  # the rest is NOTHING in every row
    text_conditions: dict[str, str] | None
    path: Path
    start_s: float
    references: Tensor | None = field(default=None, repr=False)  # [frames] int64, where they are read


@dataclass(frozen=True)
class Batch:
    """Holds crops of one length, stacked."""

    codes: Tensor = field(repr=False)  # [B, 1 + 2 codebooks, frames] int64
    valid_frames: Tensor  # [B] int64
    text_conditions: list[dict[str, str] | None]
    references: Tensor | None = field(default=None, repr=False)  # [B, frames] int64, where they are read

    @classmethod
    def of(cls, crops: list[Crop]) -> Batch:
        """Stacks crops."""
        references = [crop.references for crop in crops if crop.references is not None]
        return cls(
            references=torch.stack(references) if references else None,
            codes=torch.stack([crop.codes for crop in crops]),
            valid_frames=torch.tensor([crop.valid_frames for crop in crops]),
            text_conditions=[crop.text_conditions for crop in crops],
        )


class StereoDataset:
    """Crops the recordings that a manifest lists.

    Recordings that are no good are left out, named in the log and in `problems`; nothing else depends on them
    but which crop takes the place of theirs. Headers and words are looked at on opening, the audio itself
    when it is first needed, or all of it in `prepare`.

    Args:
        manifest: see `read_manifest`.
        mimi: its codebooks in use (`set_num_codebooks`) are the rows of each side.

    Raises:
        DataError: the manifest has a line of another form, or not one recording can be used.
    """

    def __init__(
        self, manifest: Path, tokenizer: Tokenizer, mimi: MimiModel, config: StereoConfig | None = None
    ) -> None:
        self.config = config = config or StereoConfig()
        self.problems = Problems()
        self.frames = math.ceil(config.duration_s * mimi.frame_rate)  # of each crop
        self._manifest = manifest
        self._frame_rate_hz = mimi.frame_rate
        self._recordings = open_recordings(read_manifest(manifest), self.problems)
        self._crops = [
            (which, start) for which, one in enumerate(self._recordings) for start in self._starts(one)
        ]
        self._check_usable()
        self._references = self._open_references(tokenizer, mimi.frame_rate)
        self._order = DrawOrder(len(self._crops), config.seed)
        self._store = CodeStore(mimi, encoding=config.encoding, folder=config.cache)
        self._interleaver = Interleaver(
            tokenizer=tokenizer,
            frame_rate_hz=mimi.frame_rate,
            padding=config.text_padding,
            end_of_padding=config.text_end_of_padding,
            crowded=config.crowded,
        )

    def _open_references(self, tokenizer: Tokenizer, frame_rate_hz: float) -> ReferenceStream | None:
        """Raises DataError where references are wanted and not one recording has any."""
        if self.config.text_initial is None:
            return None
        if not any(one.references() for one in self._recordings):
            example = references_path(self._recordings[0].path)
            raise DataError(
                f"{self._manifest}: not one recording has references; they are read from {example.name}"
            )
        return ReferenceStream(
            tokenizer=tokenizer,
            frame_rate_hz=frame_rate_hz,
            initial=self.config.text_initial,
            padding=self.config.text_padding,
        )

    def __len__(self) -> int:
        """Crops, those of recordings that turned out to be no good included."""
        return len(self._crops)

    def __getitem__(self, index: int) -> Crop:
        """The crop of this number, in the order of the manifest.

        Raises:
            AudioError, DataError: its recording is no good.
        """
        which, start = self._crops[index]
        return self._cut(self._recordings[which], start)

    def batch(self, step: int, size: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        """Returns what `rank` of `ranks` trains on in a step: a function of the seed and these numbers.

        All ranks together go through every crop once before one comes again.

        Raises:
            DataError: not one recording can be used any more.
        """
        first = (step * ranks + rank) * size
        return Batch.of([self._draw(draw) for draw in range(first, first + size)])

    def in_order(self, size: int, *, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """Gives every crop of this rank once, in the manifest's order; the last batch may be smaller."""
        crops: list[Crop] = []
        for index in range(rank, len(self), ranks):
            crop = self._try(index)
            crops += [] if crop is None else [crop]
            if len(crops) == size:
                yield Batch.of(crops)
                crops = []
        if crops:
            yield Batch.of(crops)

    def prepare(self, *, rank: int = 0, ranks: int = 1) -> None:
        """Encodes this rank's recordings: all at once is fastest, and damaged ones show early.

        Raises:
            DataError: not one recording can be used.
        """
        mine = self._recordings[rank::ranks]
        outcomes = self._store.prepare(mine)
        for path, error in tqdm(
            outcomes, total=len(mine), desc="encoding", unit="file", disable=None, leave=False
        ):
            if error is not None:
                self.problems.skip(path, error)
        self._check_usable()

    def _starts(self, recording: Recording) -> range:
        """The first frames of a recording's crops."""
        frames = math.ceil(recording.duration_s * self._frame_rate_hz - _LEAST_FRAMES)
        return range(0, max(frames, 1), self.frames)

    def _check_usable(self) -> None:
        if any(one.path not in self.problems.skipped for one in self._recordings):
            return
        raise DataError(f"{self._manifest} has no recording that can be used\n{self.problems.report(5)}")

    def _draw(self, draw: int) -> Crop:
        """The crop of this draw; where its recording is no good, the next one of the epoch that is."""
        shift = 0
        if self.config.shift_crops:
            rng = np.random.default_rng([self.config.seed, draw, 1])
            shift = int(rng.integers(-(self.frames // 2), self.frames // 2 + 1))
        for later in range(len(self)):
            crop = self._try(self._order.item(draw, later), shift)
            if crop is not None:
                return crop
        self._check_usable()
        raise AssertionError("a recording that can be used has a crop")

    def _try(self, index: int, shift: int = 0) -> Crop | None:
        """A crop, or None where its recording is no good."""
        which, start = self._crops[index]
        recording = self._recordings[which]
        if recording.path in self.problems.skipped:
            return None
        try:
            return self._cut(recording, start, shift)
        except (AudioError, DataError) as error:
            self.problems.skip(recording.path, error)
            return None

    def _cut(self, recording: Recording, start: int, shift: int = 0) -> Crop:
        """The crop from frame `start` on, moved by `shift` frames as far as the recording reaches."""
        sides = self._store.codes(recording.path)  # [2, K, F]
        start = min(max(start + shift, 0), max(sides.shape[-1] - self.frames, start))
        sides = sides[..., start : start + self.frames]
        valid = sides.shape[-1]
        if not valid:
            raise DataError(f"{recording.path} ends before the {recording.duration_s:.2f} s of its header")
        sidecar, start_s = recording.words(), start / self._frame_rate_hz
        codes = torch.full((1 + sides.shape[0] * sides.shape[1], self.frames), NOTHING)
        codes[0, :valid] = torch.tensor(self._interleaver.tokens(sidecar.alignments, start_s, valid))
        if sidecar.greets and start == 0:
            codes[0, 0] = self.config.text_begin
        codes[1:, :valid] = sides.flatten(0, 1)
        references = None
        if self._references is not None:
            found = recording.references()
            references = torch.tensor(self._references.tokens(found, start, self.frames))
        return Crop(codes, valid, sidecar.text_conditions, recording.path, start_s, references)
