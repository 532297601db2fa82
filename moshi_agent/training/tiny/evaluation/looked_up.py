"""Whether the bot hands over the questions that are looked up, waits, and says what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.text.pieces import text_of
from moshi_agent.training.tiny.evaluation.material import Lookup, Material
from moshi_agent.training.tiny.evaluation.reference_bot import ReferenceBot
from moshi_agent.training.tiny.looking_up import INITIAL
from moshi_agent.training.tiny.phrases import plain
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB, SAMPLE_RATE_HZ, Audio, loud_span
from moshi_agent.training.tiny.tokenizer import PADDING, WANTED

BEFORE_FRAMES = 6  # of silence before the question
PATIENCE_FRAMES = 20  # after it, in which the bot is to hand over
WAIT_FRAMES = 15  # until it is given the answer
AFTER_FRAMES = 80  # in which it is to say it


@dataclass(frozen=True, kw_only=True)
class LookupScore:
    """What the bot made of one question."""

    question: str
    found: str
    handed_over: bool  # in time
    silent: bool  # until it was given the answer
    said: str
    begins_s: float | None  # from the answer's arrival to the first loud sample
    sound: Audio = field(repr=False)  # [samples] of what it said

    @property
    def right(self) -> bool:
        """Whether the text is the one that was found, and nothing of its own came before."""
        return self.handed_over and self.silent and plain(self.said) == plain(self.found)


class _Row:
    """One question on its way: what the bot hears, what it is given, and what it does."""

    def __init__(self, lookup: Lookup, audio: Audio) -> None:
        frames = BEFORE_FRAMES + -(-len(audio) // FRAME_SAMPLES)
        self.lookup = lookup
        self.until = frames + PATIENCE_FRAMES
        self.user = np.zeros((self.until + WAIT_FRAMES + AFTER_FRAMES, FRAME_SAMPLES), np.float32)
        start = BEFORE_FRAMES * FRAME_SAMPLES
        self.user.reshape(-1)[start : start + len(audio)] = audio
        self.given_at = self.until + WAIT_FRAMES
        self.text: list[int] = []
        self.bot: list[Audio] = []

    def reference(self, frame: int) -> int:
        """The token that it is given in a frame."""
        tokens = (INITIAL, *self.lookup.found.pieces)
        index = frame - self.given_at
        return tokens[index] if 0 <= index < len(tokens) else PADDING

    def score(self, tokenizer: SentencePieceProcessor) -> LookupScore:
        """What became of it."""
        before = np.concatenate(self.bot[: self.given_at])
        after = np.concatenate(self.bot[self.given_at :])
        first, last = loud_span(after, LOUD_DB)
        return LookupScore(
            question=self.lookup.asked.item.text,
            found=self.lookup.found.text,
            handed_over=WANTED in self.text[: self.until],
            silent=loud_span(before, LOUD_DB)[1] < 0,
            said=text_of(tokenizer, self.text[self.given_at :]),
            begins_s=None if last < 0 else (first + FRAME_SAMPLES) / SAMPLE_RATE_HZ,
            sound=after,
        )


def look_up(
    checkpoint: Checkpoint, material: Material, *, greedy: bool = False, seed: int = 0
) -> list[LookupScore]:
    """Asks every rendering in a call of its own; of a model without a table for references nothing."""
    if checkpoint.lm is None or checkpoint.lm.oracle_emb is None or checkpoint.tokenizer is None:
        return []
    rows = [_Row(lookup, material.corpus.audio(lookup.asked)) for lookup in material.lookups]
    if not rows:
        return []
    bot = ReferenceBot(checkpoint, checkpoint.lm, len(rows), greedy=greedy, seed=seed)
    for frame in range(max(len(row.user) for row in rows)):
        heard = [row.user[frame] if frame < len(row.user) else np.zeros_like(row.user[0]) for row in rows]
        references = torch.tensor([row.reference(frame) for row in rows])
        sound, text = bot.step(np.stack(heard), references)
        for number, row in enumerate(rows):
            if frame < len(row.user):
                row.bot.append(sound[number].copy())
                row.text.append(int(text[number]))
    return [row.score(checkpoint.tokenizer) for row in rows]


def lookup_report(scores: Sequence[LookupScore], most: int = 20) -> str:
    """How many were handed over and said, and what became of the others."""
    if not scores:
        return "looked up: nothing, as the model has no table for references"
    count = len(scores)
    starts = sorted(one.begins_s for one in scores if one.begins_s is not None)
    median = f"{starts[len(starts) // 2]:.2f} s" if starts else "-"
    lines = [
        f"looked up: {sum(one.handed_over for one in scores)} of {count} handed over, "
        f"{sum(one.silent for one in scores)} silent until the answer, "
        f"{sum(one.right for one in scores)} said it word for word; first sound after {median} (median)"
    ]
    wrong = [one for one in scores if not one.right][:most]
    lines += [f"  {one.question!r} -> {one.found!r}: said {one.said!r}" for one in wrong]
    return "\n".join(lines)
