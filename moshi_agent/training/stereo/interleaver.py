"""The inner monologue: words and their times as one text token a frame.

The same tokens as Kyutai's `Interleaver` (moshi-finetune, finetune/data/interleaver.py) gives with the main
speaker only and its other defaults, or with `keep_and_shift`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from moshi_agent.text.pieces import Tokenizer
from moshi_agent.training.stereo.alignments import MAIN_SPEAKER, Alignment

Crowded = Literal["drop", "shift"]


@dataclass(frozen=True, kw_only=True)
class Interleaver:
    """Lays the pieces of the main speaker's words on the frames, one a frame from the word's first on.

    The frame before a word holds the end of padding, if it would hold padding. Words of others, and those
    that do not end after they start, are left out.

    Args:
        crowded: where a word begins before the pieces of the one before have had their frames, those left are
            dropped (Kyutai's default), or the word begins with the next free frame.
    """

    tokenizer: Tokenizer
    frame_rate_hz: float
    padding: int = 3
    end_of_padding: int = 0
    crowded: Crowded = "drop"
    main_speaker: str = MAIN_SPEAKER

    def tokens(self, alignments: Iterable[Alignment], start_s: float, frames: int) -> list[int]:
        """Returns the text tokens [frames] from `start_s` on, without the words that began before."""
        end_s = start_s + frames / self.frame_rate_hz
        words = [
            (self._frame(word.start_s - start_s), self._pieces(word.word))
            for word in sorted(alignments, key=lambda word: word.start_s)
            if start_s <= word.start_s < end_s
            and word.start_s < word.end_s
            and word.speaker == self.main_speaker
        ]
        return self._shifted(words, frames) if self.crowded == "shift" else self._dropped(words, frames)

    def _frame(self, time_s: float) -> int:
        return int(time_s * self.frame_rate_hz)

    def _pieces(self, word: str) -> list[int]:
        """Token ids of a word. A line break inside it stays one, however the tokenizer normalises."""
        first, *others = word.strip().split("\n")
        pieces: list[int] = list(self.tokenizer.encode(first))
        for line in others:
            pieces += [*self.tokenizer.encode("\n")[-1:], *self.tokenizer.encode(line)]
        return pieces

    def _dropped(self, words: Sequence[tuple[int, list[int]]], frames: int) -> list[int]:
        text = [self.padding] * frames
        firsts = [first for first, _ in words]
        for (first, pieces), stop in zip(words, [*firsts, frames][1:], strict=True):
            self._write(text, first, pieces[: stop - first])
        return text

    def _shifted(self, words: Sequence[tuple[int, list[int]]], frames: int) -> list[int]:
        text = [self.padding] * frames
        free = 0
        for first, pieces in words:
            first = max(first, free)
            self._write(text, first, pieces[: max(frames - first, 0)])
            free = first + len(pieces)
        return text

    def _write(self, text: list[int], first: int, pieces: list[int]) -> None:
        if not pieces:
            return
        if first > 0 and text[first - 1] == self.padding:
            text[first - 1] = self.end_of_padding
        text[first : first + len(pieces)] = pieces
