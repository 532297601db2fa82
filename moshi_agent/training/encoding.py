"""Made-up calls as the language model sees them: codes of both sides, text, and what is being asked.

The bot's sound is digital silence except where it speaks, and the codec looks back a fraction of a
second only, so its codes are cached: silence once, each answer once, and a cut answer around its cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.conversations import Conversation
from moshi_agent.training.speech import FRAME_SAMPLES, Audio

MEMORY_FRAMES = 16  # more than the codec looks back
NOTHING_ASKED = 0

Codes = NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class EncodedCall:
    """One call. `asked[t]` is 1 + the answer that the caller is asking for, or waits for, in frame t, else 0."""

    codes: Codes = field(repr=False)  # [frames, 1 + 2 * codebooks]: text, bot, caller
    asked: Codes = field(repr=False)  # [frames]


class CallEncoder:
    """Encodes calls with a frozen codec."""

    def __init__(self, codec: MimiModel) -> None:
        self.codec = codec.eval()
        self.cache: dict[bytes, Codes] = {}
        self.silence = self._encode(np.zeros(8 * MEMORY_FRAMES * FRAME_SAMPLES, np.float32))
        self.quiet: Codes = self.silence[-1]  # [codebooks] of lasting silence

    def encode(self, call: Conversation) -> EncodedCall:
        """The codes of both channels beside the call's text."""
        frames = len(call.text)
        user, bot = self._encode(call.user), self._encode_bot(call.bot)
        codes = np.concatenate([call.text[:, None].astype(np.int16), bot, user], axis=1)
        return EncodedCall(codes=codes, asked=_asked(call, frames))

    def _encode_bot(self, audio: Audio) -> Codes:
        """[frames * FRAME_SAMPLES], mostly zeros -> [frames, codebooks]."""
        frames = len(audio) // FRAME_SAMPLES
        codes = np.tile(self.quiet, (frames, 1))
        begun = min(frames, MEMORY_FRAMES)
        codes[:begun] = self.silence[:begun]
        for first, last in _spoken_spans(audio):
            start, end = first - MEMORY_FRAMES, last + 1 + MEMORY_FRAMES
            piece = self._piece(audio, start, end)
            key = piece.tobytes() if start > 0 else piece.tobytes() + bytes([first % 256])
            if key not in self.cache:
                self.cache[key] = self._encode(piece[max(-start, 0) * FRAME_SAMPLES :])
            found = self.cache[key]
            # Where a call begins, the codec has no past at all: nothing is left out of its first frames.
            skipped = MEMORY_FRAMES if start > 0 else 0
            place = max(start, 0) + skipped
            taken = found[skipped : skipped + frames - place]
            codes[place : place + len(taken)] = taken
        return codes

    def _piece(self, audio: Audio, start: int, end: int) -> Audio:
        """Frames `start` to `end`, zeros outside the call."""
        piece = np.zeros((end - start) * FRAME_SAMPLES, np.float32)
        taken = audio[max(start, 0) * FRAME_SAMPLES : end * FRAME_SAMPLES]
        offset = max(-start, 0) * FRAME_SAMPLES
        piece[offset : offset + len(taken)] = taken
        return piece

    @torch.no_grad()
    def _encode(self, audio: Audio) -> Codes:
        """[samples] -> [frames, codebooks]."""
        codes = self.codec.encode(torch.from_numpy(audio)[None, None])
        return codes[0].T.numpy().astype(np.int16)


def _spoken_spans(audio: Audio) -> list[tuple[int, int]]:
    """First and last frames of what is spoken; spans nearer than the codec's memory are one."""
    loud = np.flatnonzero(np.abs(audio.reshape(-1, FRAME_SAMPLES)).max(1) > 0)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) > 2 * MEMORY_FRAMES)
    firsts = [loud[0], *loud[breaks + 1]]
    lasts = [*loud[breaks], loud[-1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


def _asked(call: Conversation, frames: int) -> Codes:
    asked = np.full(frames, NOTHING_ASKED, np.int16)
    for turn in call.turns:
        if turn.question is None:
            continue
        first = turn.question_start // FRAME_SAMPLES
        last = turn.answer_first_frame if turn.answer_first_frame is not None else turn.question_end // FRAME_SAMPLES
        asked[first : last + 1] = 1 + turn.answer
    return asked
