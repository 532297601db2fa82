"""Made-up calls as the language model sees them: codes of both sides, text, and what is being asked.

The bot's sound is digital silence except where it speaks, and the codec looks back a fraction of a
second only, so its codes are cached: silence once, each answer once, and a cut answer around its cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.tiny.conversations import SOONEST_STOP_FRAMES
from moshi_agent.training.tiny.made_up_call import Conversation
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, Audio

BATCH_ROWS = 16  # of one length, nearly: a batch is as long as its longest signal
MEMORY_FRAMES = 12  # more than the codec looks back
NOTHING_ASKED = 0

Codes = NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class EncodedCall:
    """One call. `asked[t]` is 1 + the answer that the caller asks for, or waits for, in frame t; else 0."""

    codes: Codes = field(repr=False)  # [frames, 1 + 2 * codebooks]: text, bot, caller
    references: Codes = field(repr=False)  # [frames]
    asked: Codes = field(repr=False)  # [frames]
    late: NDArray[np.bool_] = field(repr=False)  # [frames] the bot should have stopped before, and has not
    told: NDArray[np.bool_] = field(repr=False)  # [frames] the text says what it was told to begin with


class CallEncoder:
    """Encodes calls with a frozen codec, frame by frame: as a live call would be encoded.

    A codec that streams sees a little less past at a frame's first steps than one that has the whole
    signal, so the codes are not quite those of `codec.encode` on the whole.
    """

    def __init__(self, codec: MimiModel) -> None:
        self.codec = codec.eval()
        self.cache: dict[bytes, Codes] = {}
        self.silence = self._stream([np.zeros(4 * MEMORY_FRAMES * FRAME_SAMPLES, np.float32)])[0]
        self.quiet: Codes = self.silence[-1]  # [codebooks] of lasting silence

    def encode(self, calls: Sequence[Conversation]) -> list[EncodedCall]:
        """The codes of both channels of each call beside its text."""
        users = self._encode_users([call.user for call in calls])
        bots = self._encode_bots([call.bot for call in calls])
        encoded: list[EncodedCall] = []
        for call, user, bot in zip(calls, users, bots, strict=True):
            codes = np.concatenate([call.text[:, None].astype(np.int16), bot, user], axis=1)
            frames = len(call.text)
            encoded.append(
                EncodedCall(
                    codes=codes,
                    references=call.references.astype(np.int16),
                    asked=_asked(call, frames),
                    late=_late(call, frames),
                    told=_told(call, frames),
                )
            )
        return encoded

    def _encode_users(self, signals: Sequence[Audio]) -> list[Codes]:
        """[frames * FRAME_SAMPLES] each -> [frames, codebooks] each; of many, digital silence is all."""
        encoded = [self._quiet_codes(len(signal) // FRAME_SAMPLES) for signal in signals]
        heard = [row for row, signal in enumerate(signals) if signal.any()]
        for row, codes in zip(heard, self._stream([signals[row] for row in heard]), strict=True):
            encoded[row] = codes
        return encoded

    def _encode_bots(self, signals: Sequence[Audio]) -> list[Codes]:
        """[frames * FRAME_SAMPLES] each, mostly zeros -> [frames, codebooks] each."""
        pieces = [
            (row, _piece(audio, span)) for row, audio in enumerate(signals) for span in _spoken_spans(audio)
        ]
        missing = {piece.key: piece.audio for _, piece in pieces if piece.key not in self.cache}
        for key, codes in zip(missing, self._stream(list(missing.values())), strict=True):
            self.cache[key] = codes
        encoded = [self._quiet_codes(len(audio) // FRAME_SAMPLES) for audio in signals]
        for row, piece in pieces:
            found = self.cache[piece.key][piece.skipped :]
            room = encoded[row][piece.start + piece.skipped :]
            room[: len(found)] = found[: len(room)]
        return encoded

    def _quiet_codes(self, frames: int) -> Codes:
        """[frames, codebooks] of a call in which nothing is said."""
        codes = np.tile(self.quiet, (frames, 1))
        begun = min(frames, MEMORY_FRAMES)
        codes[:begun] = self.silence[:begun]
        return codes

    def _stream(self, signals: Sequence[Audio]) -> list[Codes]:
        """Signals of whole frames, frame by frame -> [frames, codebooks] each."""
        by_length = sorted(range(len(signals)), key=lambda i: len(signals[i]))
        codes: dict[int, Codes] = {}
        for first in range(0, len(by_length), BATCH_ROWS):
            rows = by_length[first : first + BATCH_ROWS]
            codes.update(zip(rows, self._stream_batch([signals[i] for i in rows]), strict=True))
        return [codes[i] for i in range(len(signals))]

    @torch.no_grad()
    def _stream_batch(self, signals: Sequence[Audio]) -> list[Codes]:
        lengths = [len(signal) // FRAME_SAMPLES for signal in signals]
        batch = torch.zeros(len(signals), 1, max(lengths) * FRAME_SAMPLES)
        for row, signal in zip(batch, signals, strict=True):
            row[0, : len(signal)] = torch.from_numpy(signal)
        with self.codec.streaming(len(signals)):
            codes = torch.cat(
                [self.codec.encode(frame) for frame in batch.split(FRAME_SAMPLES, dim=2)], dim=2
            )
        return [
            row[:, :length].T.numpy().astype(np.int16) for row, length in zip(codes, lengths, strict=True)
        ]


@dataclass(frozen=True)
class _Piece:
    """What is spoken in one go, with the codec's memory before it and after it."""

    audio: Audio
    start: int  # frame of the call
    skipped: int  # frames at its beginning that only fill the memory

    @property
    def key(self) -> bytes:
        return hashlib.blake2b(self.audio.tobytes(), salt=bytes([self.skipped])).digest()


def _piece(audio: Audio, span: tuple[int, int]) -> _Piece:
    start, end = span[0] - MEMORY_FRAMES, span[1] + 1 + MEMORY_FRAMES
    # Where a call begins, the codec has no past: its first frames are part of the piece.
    skipped = MEMORY_FRAMES if start > 0 else 0
    start = max(start, 0)
    piece = np.zeros((end - start) * FRAME_SAMPLES, np.float32)
    taken = audio[start * FRAME_SAMPLES : end * FRAME_SAMPLES]
    piece[: len(taken)] = taken
    return _Piece(piece, start, skipped)


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
        first, last = turn.question_start // FRAME_SAMPLES, turn.question_end // FRAME_SAMPLES
        if turn.handed_over_at is not None:
            last = turn.handed_over_at
        elif turn.answer_first_frame is not None:
            last = turn.answer_first_frame
        asked[first : last + 1] = 1 + turn.answer
    return asked


def _late(call: Conversation, frames: int) -> NDArray[np.bool_]:
    late = np.zeros(frames, bool)
    for turn in call.turns:
        if turn.interrupted_at is not None and turn.answer_last_frame is not None:
            late[turn.interrupted_at // FRAME_SAMPLES + SOONEST_STOP_FRAMES : turn.answer_last_frame + 1] = (
                True
            )
    return late


def _told(call: Conversation, frames: int) -> NDArray[np.bool_]:
    """From the frame before the sound to the first piece: what comes after it follows from it."""
    told = np.zeros(frames, bool)
    for turn in call.turns:
        for begin, first_piece in turn.told:
            told[begin : first_piece + 1] = True
    return told
