"""Looks for the recordings in a FLAC file (RFC 9639) without decoding them: there may be several, joined."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from moshi_agent.audio.mp3_header import id3_bytes

_MAGIC = b"fLaC"
_INFO_BYTES = 34  # of the first block, which tells of the stream
# The magic and the first block's header. These eight bytes do not come by chance.
_BEGINNING = re.compile(_MAGIC + rb"[\x00\x80]\x00\x00\x22")
_BEGINNING_BYTES = 8
_SEARCHED_BYTES = 1 << 20  # at once


@dataclass(frozen=True, slots=True)
class FlacStream:
    """What a stream says of itself.

    Args:
        start: its first byte.
        length: how many bytes there are up to the next stream, or the end of the file.
        frames: samples of each channel; 0 where that was never filled in.
    """

    start: int
    length: int
    rate_hz: int
    channels: int
    frames: int


def flac_streams(source: Path) -> list[FlacStream]:
    """Lists the streams that stand one behind the other in a file; none if it is no FLAC file."""
    with source.open("rb") as file:
        first = id3_bytes(file.read(10))
        file.seek(first)
        if file.read(len(_MAGIC)) != _MAGIC:
            return []
        starts = [*_beginnings(file, first), source.stat().st_size]
        return [_stream(file, start, behind - start) for start, behind in pairwise(starts)]


def _beginnings(file: BinaryIO, at: int) -> Iterator[int]:
    """Where streams begin, from the place `at` on."""
    file.seek(at)
    data = b""
    while read := file.read(_SEARCHED_BYTES):
        data += read
        for found in _BEGINNING.finditer(data):
            yield at + found.start()
        rest = data[-_BEGINNING_BYTES + 1 :]
        at += len(data) - len(rest)
        data = rest


def _stream(file: BinaryIO, start: int, length: int) -> FlacStream:
    file.seek(start + _BEGINNING_BYTES)
    info = file.read(_INFO_BYTES)
    # From byte 10 on: 20 bits of rate, 3 of channels but one, 5 of bits in a sample but one, 36 of samples.
    packed = int.from_bytes(info[10:18].ljust(8, b"\0"), "big")
    return FlacStream(
        start=start,
        length=length,
        rate_hz=packed >> 44,
        channels=(packed >> 41 & 0b111) + 1,
        frames=packed & (1 << 36) - 1,
    )
