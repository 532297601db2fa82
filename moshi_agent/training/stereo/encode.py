"""Sends stereo recordings through the codec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.audio.files import read_channels
from moshi_agent.errors import DataError
from moshi_agent.models.mimi import MimiModel

Encoding = Literal["whole", "live"]

# The offline codec's memory grows with the square of the length: what is longer goes in pieces, each after
# enough of what came before for the codec's attention.
_PIECE_FRAMES = 1250
_LEAD_FRAMES = 125


def read_stereo(path: Path, mimi: MimiModel) -> Tensor:
    """Reads left and right, [2, 1, N] float32 at the codec's rate; silence fills the last frame.

    Raises:
        AudioError: the file cannot be read to its end.
        DataError: it has not two channels.
    """
    samples = read_channels(path, mimi.sample_rate)
    if samples.shape[1] != 2:
        raise DataError(f"{path} has {samples.shape[1]} channel(s), and two are needed")
    audio = torch.from_numpy(np.ascontiguousarray(samples.T))[:, None]
    return F.pad(audio, (0, -audio.shape[-1] % mimi.frame_size))


def encode(mimi: MimiModel, recordings: Sequence[Tensor], encoding: Encoding) -> list[Tensor]:
    """Encodes recordings [2, 1, frames * frame_size] -> codes [2, codebooks, frames] int16 on the CPU, each.

    `whole` gives each to the codec at once. `live` gives all of them frame by frame, side by side: the codes
    that a call has, up to the last bits of sums over batches of another size.
    """
    with torch.no_grad():
        if encoding == "live":
            return _live(mimi, recordings)
        return [_whole(mimi, audio) for audio in recordings]


def _live(mimi: MimiModel, recordings: Sequence[Tensor]) -> list[Tensor]:
    longest = max(audio.shape[-1] for audio in recordings)
    batch = torch.cat([F.pad(audio, (0, longest - audio.shape[-1])) for audio in recordings])  # [2 R, 1, N]
    with mimi.streaming(len(batch)):
        frames = batch.split(mimi.frame_size, dim=-1)
        codes = torch.cat([_codes(mimi, frame) for frame in frames], dim=-1)
    return [
        pair[..., : audio.shape[-1] // mimi.frame_size].clone()
        for pair, audio in zip(codes.split(2), recordings, strict=True)
    ]


def _whole(mimi: MimiModel, audio: Tensor) -> Tensor:
    frames = audio.shape[-1] // mimi.frame_size
    pieces: list[Tensor] = []
    for first in range(0, frames, _PIECE_FRAMES):
        lead = min(first, _LEAD_FRAMES)
        piece = audio[..., (first - lead) * mimi.frame_size : (first + _PIECE_FRAMES) * mimi.frame_size]
        pieces.append(_codes(mimi, piece)[..., lead:])
    return torch.cat(pieces, dim=-1)


def _codes(mimi: MimiModel, audio: Tensor) -> Tensor:
    return mimi.encode(audio.to(mimi.device, mimi.dtype)).to("cpu", torch.int16)
