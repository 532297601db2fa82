"""Encoded calls on disk: made once, one shard of several calls at a time, and cropped for training."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.conversations import ANSWER_DELAY_FRAMES, ConversationSampler
from moshi_agent.training.tiny.encoding import CallEncoder
from moshi_agent.training.tiny.tokenizer import BEGIN

MOST_BEFORE = 10
BEGIN_SHARE = 0.25
MOST_LEFT_OUT = 12  # frames of a question
FIRST_TOLD_SHARD = 1000
SILENT_SHARE = 0.15  # of the calls in which the bot is told all that it says


@dataclass(frozen=True, kw_only=True)
class LMDataPlan:
    """How many calls are made."""

    shards: int = 16
    told_shards: int = 0  # beside them, of calls in which the bot is told all that it says
    calls_per_shard: int = 40
    frames: int = 750  # per call
    seed: int = 31


def build_lm_data(folder: Path, sampler: ConversationSampler, encoder: CallEncoder, plan: LMDataPlan) -> None:
    """Writes the shards that are missing: those of which the bot is told all come last."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(plan.shards), desc="calls", unit="shard"):
        build_shard(folder, sampler, encoder, plan, number)
    if plan.told_shards:
        callers = LMData.open(folder).callers_who_ask_nothing()
        for number in tqdm(range(plan.told_shards), desc="told", unit="shard"):
            build_shard(folder, sampler.only_told(), encoder, plan, FIRST_TOLD_SHARD + number, callers)


def build_shard(
    folder: Path,
    sampler: ConversationSampler,
    encoder: CallEncoder,
    plan: LMDataPlan,
    number: int,
    callers: NDArray[np.int16] | None = None,
) -> None:
    """Writes one shard, unless it is there.

    Args:
        callers: what most calls hear in place of silence, codes [N, frames, codebooks]; to encode it anew for
            each of them would take most of the time.
    """
    path = folder / f"calls_{number:04d}.npz"
    if path.exists():
        return
    rng = np.random.default_rng([plan.seed, number])
    calls = encoder.encode([sampler.sample(rng, plan.frames) for _ in range(plan.calls_per_shard)])
    codes = np.stack([call.codes for call in calls])
    if callers is not None and len(callers):
        heard = rng.random(len(calls)) >= SILENT_SHARE
        picks = rng.integers(len(callers), size=len(calls))
        codes[heard, :, 1 + len(encoder.quiet) :] = callers[picks[heard]]
    partial = path.with_suffix(".part.npz")
    np.savez(
        partial,
        codes=codes,
        references=np.stack([call.references for call in calls]),
        asked=np.stack([call.asked for call in calls]),
        late=np.stack([call.late for call in calls]),
        told=np.stack([call.told for call in calls]),
        quiet=encoder.quiet,
    )
    os.replace(partial, path)


class Crops(NamedTuple):
    """Pieces of calls, as many frames long each."""

    codes: NDArray[np.int64]  # [batch, streams, frames]
    references: NDArray[np.int64]  # [batch, frames]
    asked: NDArray[np.int64]  # [batch, frames]
    late: NDArray[np.bool_]  # [batch, frames] where the bot should have stopped before
    told: NDArray[np.bool_]  # [batch, frames] where it was told what to write
    begins: NDArray[np.bool_]  # [batch] whether it begins where its call does


@dataclass(frozen=True)
class LMData:
    """All calls of a folder, in memory."""

    codes: NDArray[np.int16] = field(repr=False)  # [calls, frames, streams]
    references: NDArray[np.int16] = field(repr=False)  # [calls, frames]
    asked: NDArray[np.int16] = field(repr=False)  # [calls, frames]
    late: NDArray[np.bool_] = field(repr=False)  # [calls, frames]
    told: NDArray[np.bool_] = field(repr=False)  # [calls, frames]
    quiet: NDArray[np.int16] = field(repr=False)  # [codebooks]

    @classmethod
    def open(cls, folder: Path) -> LMData:
        """The shards that are whole. Raises ConfigError when there are none."""
        shards = [np.load(path) for path in sorted(folder.glob("calls_????.npz"))]
        if not shards:
            raise ConfigError(f"no encoded calls in {folder}; build them with build_lm_data first")
        names = ("codes", "references", "asked", "late", "told")
        parts = {name: np.concatenate([shard[name] for shard in shards]) for name in names}
        return cls(**parts, quiet=shards[0]["quiet"])

    def crops(self, rng: np.random.Generator, batch: int, frames: int) -> Crops:
        """Pieces of calls, some of which begin with their call.

        Half of those that do are calls in which the bot speaks first, which are few.
        """
        calls = rng.integers(len(self.codes), size=batch)
        starts = rng.integers(0, self.codes.shape[1] - frames + 1, size=batch)
        kinds = rng.random(batch)
        starts[kinds < BEGIN_SHARE] = 0
        if len(self.greeted):
            picks = self.greeted[rng.integers(len(self.greeted), size=batch)]
            calls = np.where(kinds < BEGIN_SHARE / 2, picks, calls)
        return self._cut(calls, starts[:, None] + np.arange(frames))

    def question_crops(
        self, rng: np.random.Generator, batch: int, frames: int, *, pace_share: float = 0.0
    ) -> Crops:
        """As `crops`, each beginning up to MOST_BEFORE frames before a question.

        Args:
            pace_share: of a question's frames that are left out or come twice: no rendering is heard twice
                at the same pace.
        """
        picks = rng.integers(len(self.questions), size=batch)
        calls, first = self.questions[picks].T
        starts = first - rng.integers(1, MOST_BEFORE + 1, size=batch)
        window = frames + MOST_LEFT_OUT
        starts = starts.clip(0, self.codes.shape[1] - window)
        rows = starts[:, None] + np.arange(window)
        chance = rng.random(rows.shape)
        asking = self.asking[calls[:, None], rows]
        left_out = asking & (chance < pace_share / 2)
        left_out &= left_out.cumsum(1) <= MOST_LEFT_OUT
        counts = 1 - left_out + (asking & (chance > 1 - pace_share / 2))
        paced = [row.repeat(count)[:frames] for row, count in zip(rows, counts, strict=True)]
        return self._cut(calls, np.stack(paced))

    def told_crops(self, rng: np.random.Generator, batch: int, frames: int) -> Crops:
        """As `crops`, each beginning shortly before the bot says what it was told to."""
        return self._crops_before(self.beginnings, rng, batch, frames)

    def interruption_crops(self, rng: np.random.Generator, batch: int, frames: int) -> Crops:
        """As `crops`, each beginning shortly before the caller speaks while the bot does."""
        return self._crops_before(self.interruptions, rng, batch, frames)

    def heard(self) -> NDArray[np.int16]:
        """The caller's codes in all frames in which something is asked, [N, codebooks]."""
        return self.codes[self.asked > 0][:, 1 + len(self.quiet) :]

    def callers_who_ask_nothing(self) -> NDArray[np.int16]:
        """The caller's codes of the calls in which nobody asks anything, [N, frames, codebooks]."""
        return self.codes[(self.asked == 0).all(1)][:, :, 1 + len(self.quiet) :]

    @cached_property
    def greeted(self) -> NDArray[np.int64]:
        """The calls that the bot opens, [calls]."""
        return np.flatnonzero(self.codes[:, 0, 0] == BEGIN)

    @cached_property
    def beginnings(self) -> NDArray[np.int64]:
        """The call and the frame of every beginning of what the bot was told to say, [sentences, 2]."""
        before = np.pad(self.told[:, :-1], ((0, 0), (1, 0)))
        return np.argwhere(self.told & ~before)

    @cached_property
    def questions(self) -> NDArray[np.int64]:
        """The call and the first frame of every question, [questions, 2]."""
        before = np.pad(self.asked[:, :-1], ((0, 0), (1, 0)))
        return np.argwhere((self.asked > 0) & (self.asked != before))

    @cached_property
    def interruptions(self) -> NDArray[np.int64]:
        """The call and the first frame of every question that breaks into what the bot says, [N, 2]."""
        calls, first = self.questions.T
        bot = self.codes[calls, first, 1 : 1 + len(self.quiet)]
        return self.questions[(bot != self.quiet).any(1)]

    @cached_property
    def asking(self) -> NDArray[np.bool_]:
        """The frames in which the caller asks and the bot is quiet, [calls, frames].

        The last of a question are not among them: the answer keeps its distance.
        """
        later = np.zeros_like(self.asked)
        later[:, :-ANSWER_DELAY_FRAMES] = self.asked[:, ANSWER_DELAY_FRAMES:]
        bot = self.codes[:, :, 1 : 1 + len(self.quiet)]
        return (self.asked > 0) & (self.asked == later) & (bot == self.quiet).all(2)

    def _crops_before(
        self, places: NDArray[np.int64], rng: np.random.Generator, batch: int, frames: int
    ) -> Crops:
        """Crops that begin up to MOST_BEFORE frames before some of these, [N, 2] of call and frame."""
        calls, first = places[rng.integers(len(places), size=batch)].T
        starts = (first - rng.integers(1, MOST_BEFORE + 1, size=batch)).clip(0, self.codes.shape[1] - frames)
        return self._cut(calls, starts[:, None] + np.arange(frames))

    def _cut(self, calls: NDArray[np.int64], frames: NDArray[np.int64]) -> Crops:
        """calls: [batch], frames: [batch, frames] of each crop."""
        rows = calls[:, None], frames
        codes = self.codes[rows].transpose(0, 2, 1).astype(np.int64)
        references, asked = (part[rows].astype(np.int64) for part in (self.references, self.asked))
        is_first = frames[:, 0] == 0
        return Crops(codes, references, asked, self.late[rows], self.told[rows], is_first)
