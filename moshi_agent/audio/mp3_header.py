"""Tells whether an mp3 file's own header can be believed about its length.

The header is the frame that encoders put first (Xing, or Info for a constant bit rate), as "MPEG Audio Frame
Header" by Gabriel Bouvigne and LAME's documentation describe it. Without one, decoders guess the length from
the first frames, which is wrong for a variable bit rate; and a file joined from two has the header of the
first alone.
"""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path

_LOOKED_AT_BYTES = 1 << 16  # behind an ID3 tag, in which the first frame is looked for
_SLACK_BYTES = 4096  # tags at the end, padding


class Mp3Length(Enum):
    """What is known of the length of a file."""

    KNOWN = auto()  # as the header says
    CUT_OFF = auto()  # the header promises more than there is
    UNKNOWN = auto()  # no header, or more behind what it speaks of


def mp3_length(source: Path) -> Mp3Length:
    """Compares the number of bytes in an mp3 file's header with those that are there."""
    with source.open("rb") as file:
        start = id3_bytes(file.read(10))
        file.seek(start)
        data = file.read(_LOOKED_AT_BYTES)
    first = _first_frame(data)
    promised = None if first is None else _promised_bytes(data[first:])
    if first is None or promised is None:
        return Mp3Length.UNKNOWN
    there = source.stat().st_size - start - first
    if promised > there + _SLACK_BYTES:
        return Mp3Length.CUT_OFF
    return Mp3Length.KNOWN if promised > there - _SLACK_BYTES else Mp3Length.UNKNOWN


def id3_bytes(data: bytes) -> int:
    """The length of an ID3v2 tag at the beginning of a file, 0 if there is none."""
    if len(data) < 10 or data[:3] != b"ID3":
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if data[5] & 0x10 else 0)


def _first_frame(data: bytes) -> int | None:
    """Where the first frame of layer III begins."""
    for place in range(len(data) - 4):
        if data[place] == 0xFF and data[place + 1] & 0xE6 == 0xE2:
            return place
    return None


def _promised_bytes(frame: bytes) -> int | None:
    """The number of bytes that a frame's Xing or Info header gives, itself included."""
    is_version_1, is_mono = frame[1] & 0x18 == 0x18, frame[3] & 0xC0 == 0xC0
    side_info = (17 if is_mono else 32) if is_version_1 else (9 if is_mono else 17)
    header = frame[4 + side_info :][:16]
    if header[:4] not in (b"Xing", b"Info") or len(header) < 16:
        return None
    flags = int.from_bytes(header[4:8], "big")
    has_frames, has_bytes = flags & 1, flags & 2
    if not has_frames or not has_bytes:
        return None
    return int.from_bytes(header[12:16], "big")
