"""A made-up call while it is being made, and when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moshi_agent.training.tiny.answers import Tokens
from moshi_agent.training.tiny.looking_up import no_references
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, Audio
from moshi_agent.training.tiny.tokenizer import PADDING

CUT_FADE = SAMPLE_RATE_HZ // 100


@dataclass(kw_only=True)
class Turn:
    """One utterance of the caller and the bot's answer to it; the opening greeting has no question, nor has
    what the bot was told to say.

    Samples and frames count from the start of the call. `answer_last_frame` is the last frame with sound; a
    turn without an answer has None. `interrupted_at` is the caller's first loud sample, if that cut it.
    """

    question: str | None
    known: bool
    answer: int
    question_start: int
    question_end: int
    answer_first_frame: int | None = None
    answer_last_frame: int | None = None
    interrupted_at: int | None = None
    # Of each sentence that the bot was told to say, the frame before its sound, and that of its first piece.
    told: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    handed_over_at: int | None = None  # the frame in which the model asks for a reference
    text: str = ""  # what is said, if anything


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A made-up call of N = frames * FRAME_SAMPLES samples."""

    user: Audio = field(repr=False)  # [N], as it reaches the bot
    user_speech: Audio = field(repr=False)  # [N], the caller's voice alone
    bot: Audio = field(repr=False)  # [N], exact zeros wherever the bot is silent
    text: Tokens = field(repr=False)  # [frames]
    references: Tokens = field(repr=False)  # [frames] what it is told to say next
    turns: list[Turn]
    effects: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A call while it is being made."""

    speech: Audio  # [N]
    bursts: Audio  # [N]
    bot: Audio  # [N]
    text: Tokens  # [frames]
    references: Tokens  # [frames]
    level_db: float
    turns: list[Turn] = field(default_factory=list["Turn"])

    @classmethod
    def empty(cls, frames: int, level_db: float) -> Draft:
        speech, bursts, bot = np.zeros((3, frames * FRAME_SAMPLES), np.float32)
        text = np.full(frames, PADDING, np.int64)
        return cls(
            speech=speech,
            bursts=bursts,
            bot=bot,
            text=text,
            references=no_references(frames),
            level_db=level_db,
        )


def is_quiet(call: Draft, onset: int) -> bool:
    """Whether the bot has said by sample `onset` what it had to."""
    last = call.turns[-1].answer_last_frame if call.turns else -1
    return last is not None and last < onset // FRAME_SAMPLES


def add(channel: Audio, audio: Audio, start: int) -> None:
    """Mix `audio` into `channel` at `start`, leaving out what lies outside it."""
    skipped = max(-start, 0)
    room = channel[start + skipped :]
    taken = audio[skipped : skipped + len(room)]
    room[: len(taken)] += taken


def interrupt(call: Draft, onset: int, stop_frames: int) -> None:
    """Stop what the bot is saying `stop_frames` after the caller is heard at sample `onset`."""
    if not call.turns:
        return
    turn, stop = call.turns[-1], onset // FRAME_SAMPLES + stop_frames
    call.references[onset // FRAME_SAMPLES :] = PADDING
    if turn.handed_over_at is not None and stop - 1 <= turn.handed_over_at:
        call.text[stop - 1 :] = PADDING
    if turn.answer_first_frame is None or turn.answer_last_frame is None or stop > turn.answer_last_frame:
        return
    call.text[stop - 1 :] = PADDING
    turn.interrupted_at = onset
    if stop <= turn.answer_first_frame:
        call.bot[turn.answer_first_frame * FRAME_SAMPLES :] = 0
        turn.answer_first_frame = turn.answer_last_frame = None
        return
    cut = stop * FRAME_SAMPLES
    call.bot[cut - CUT_FADE : cut] *= np.linspace(1, 0, CUT_FADE, dtype=np.float32)
    call.bot[cut:] = 0
    turn.answer_last_frame = stop - 1
