"""What goes before a conversation's first frame: the model's own first step, and the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_SAMPLES
from moshi_agent.engine.prompt.prompt import Prompt
from moshi_agent.engine.step.step_tensors import RowInput, Tokens
from moshi_agent.errors import InputError
from moshi_agent.models.prefill import MOST_POSITIONS
from moshi_agent.nn.embedding import UNGENERATED_TOKEN, ZERO_TOKEN

_BEGIN_OF_TEXT = 1  # forced into the first frame, it asks a model that was trained so to greet


@dataclass(frozen=True, slots=True)
class PromptFrame:
    """A step before the conversation: nothing of it is heard."""

    forced: Tokens | None
    hears_silence: bool
    of_prompt: bool = True  # one of the steps that conversations with the same prompt share

    def row_input(self, row: int) -> RowInput:
        """Makes the step one of a row."""
        pcm = np.zeros(FRAME_SAMPLES, np.float32) if self.hears_silence else None
        return RowInput(row=row, pcm=pcm, forced=self.forced)


@dataclass(frozen=True, slots=True)
class PrefillFrame:
    """Many such steps at once, in which everything is forced."""

    tokens: NDArray[np.int64]  # [steps, streams]
    embeddings: NDArray[np.float32] | None = None  # [up to steps, dim], as in `prefill`


@dataclass(frozen=True, slots=True)
class RecallFrame:
    """Many steps that a conversation has taken elsewhere: read again, since their caches stayed there."""

    steps: range
    of_recogniser: bool = False  # and not of the model


PromptStep = PromptFrame | PrefillFrame
OpeningFrame = PromptStep | RecallFrame


def opening_frames(
    prompt: Prompt | None, greet: bool, num_streams: int, most_positions: int = MOST_POSITIONS
) -> list[PromptStep]:
    """Returns the steps before the first frame, in order. The model's own first one hears nothing.

    Args:
        most_positions: of the prompt that are read at once; the others' frames wait for them.
    """
    if prompt is not None and prompt.is_whole:
        return list(_frames_of(prompt, most_positions))
    frames = [] if prompt is None else _frames_of(prompt, most_positions)
    return [first_step(greet, num_streams, of_prompt=prompt is not None), *frames]


def first_step(greet: bool, num_streams: int, of_prompt: bool = False) -> PromptFrame:
    """Makes the model's own first step, which reads initial tokens alone; a greeting begins the text."""
    if not greet:
        return PromptFrame(None, False, of_prompt)
    forced = np.full(num_streams, UNGENERATED_TOKEN)
    forced[0] = _BEGIN_OF_TEXT
    return PromptFrame(forced, False, of_prompt)


def recall_frames(steps: range, most_positions: int, of_recogniser: bool = False) -> list[RecallFrame]:
    """Divides steps that are to be read again as those of prompts are."""
    pieces = (steps[first : first + most_positions] for first in range(0, len(steps), most_positions))
    return [RecallFrame(piece, of_recogniser) for piece in pieces]


def check_opening(frames: Iterable[PromptStep], highest: NDArray[np.int64], dim: int) -> None:
    """Raises InputError unless a model can take these steps.

    Args:
        highest: [streams], the largest token of each stream.
        dim: of the temporal transformer.
    """
    for frame in frames:
        if isinstance(frame, PromptFrame):
            tokens, embeddings = None if frame.forced is None else frame.forced[None], None
        else:
            tokens, embeddings = frame.tokens, frame.embeddings
            if not (tokens.ndim and len(tokens)) or (embeddings is not None and not embeddings.ndim):
                raise InputError("a step of a prompt without tokens")
            if len(tokens) > MOST_POSITIONS:
                raise InputError(f"{len(tokens)} steps of a prompt at once; accepted: {MOST_POSITIONS}")
        if tokens is not None:
            _check_tokens(tokens, highest, isinstance(frame, PrefillFrame))
        if tokens is not None and embeddings is not None:
            fits = embeddings.shape == (min(len(embeddings), len(tokens)), dim) and len(embeddings)
            if not fits or embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
                raise InputError(
                    f"embeddings of shape {list(embeddings.shape)}; accepted: finite numbers, [steps, {dim}]"
                )


def _check_tokens(tokens: NDArray[np.int64], highest: NDArray[np.int64], all_forced: bool) -> None:
    """tokens: [steps, streams]."""
    if tokens.ndim != 2 or tokens.shape[1] != len(highest) or tokens.dtype != np.int64:
        raise InputError(f"a prompt of {tokens.shape[-1]} streams; this model has {len(highest)}")
    least = ZERO_TOKEN if all_forced else UNGENERATED_TOKEN
    if not ((tokens >= least) & (tokens <= highest)).all():
        raise InputError(
            f"a prompt with tokens from {tokens.min()} to {tokens.max()}; accepted: {least} to {highest[0]} "
            f"for text, to {highest[-1]} for codes"
        )


def _frames_of(prompt: Prompt, most_positions: int) -> Iterator[PromptStep]:
    """One step after the other where something is left to choose, many at once where nothing is."""
    is_forced = (prompt.tokens != UNGENERATED_TOKEN).all(axis=1)
    for forced, steps in groupby(range(len(prompt.tokens)), key=lambda step: bool(is_forced[step])):
        run = list(steps)
        if not forced:
            yield from (PromptFrame(prompt.tokens[step], not prompt.is_whole) for step in run)
            continue
        for first in run[::most_positions]:
            last = min(first + most_positions, run[-1] + 1)
            embeddings = None if prompt.embeddings is None else prompt.embeddings[first:last]
            has_any = embeddings is not None and len(embeddings) > 0
            yield PrefillFrame(prompt.tokens[first:last], embeddings if has_any else None)
