"""Looks at the pages of an Ogg file (RFC 3533) without decoding them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moshi_agent.audio.mp3_header import id3_bytes

_MAGIC = b"OggS"
_FIRST_PAGE_BIT, _LAST_PAGE_BIT = 0x02, 0x04  # of a page's flags: a logical stream begins here, or ends
_FIXED_BYTES = 27  # of a page's header, before its table of segments
_CHECK_SUM = slice(22, 26)  # of a page's header
_SEARCHED_BYTES = 1 << 16  # at once
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class OggPages:
    """What the pages of a file tell.

    Args:
        is_chained: a second stream begins behind the first, as in recordings that were joined.
        is_cut_off: the file ends within a page.
        lost_at: where, within a stream, there is something else than a whole page; None where nowhere.
    """

    is_chained: bool
    is_cut_off: bool
    lost_at: int | None


def ogg_pages(source: Path) -> OggPages | None:
    """Goes through the pages of a file; None if it is no Ogg file.

    What stands before the first page and behind the last one, such as a tag, does not matter. The streams of
    a live recording have no last page, which is no sign that anything is missing.
    """
    with source.open("rb") as file:
        at = id3_bytes(file.read(10))
        file.seek(at)
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        return _walked(file, at, source.stat().st_size)


def _walked(file: BinaryIO, at: int, size: int) -> OggPages:
    open_streams: set[bytes] = set()  # their serial numbers
    has_body = is_chained = is_cut_off = False
    lost_at = None
    while at < size:
        page = _page_at(file, at)
        if not page:
            found = _next_page(file, at)
            if found is None:
                break
            lost_at = at if lost_at is None and open_streams else lost_at
            at = found
            continue
        if is_cut_off := len(page) < _length(page):
            break
        if lost_at is None and not _is_whole(page):
            lost_at = at
        flags, serial = page[5], page[14:18]
        is_chained |= has_body and bool(flags & _FIRST_PAGE_BIT)
        has_body |= not flags & _FIRST_PAGE_BIT
        (open_streams.discard if flags & _LAST_PAGE_BIT else open_streams.add)(serial)
        at += len(page)
    return OggPages(is_chained, is_cut_off, lost_at)


def _page_at(file: BinaryIO, at: int) -> bytes:
    """The page that begins there, as far as the file goes; empty where none does."""
    file.seek(at)
    header = file.read(_FIXED_BYTES)
    if header[:4] != _MAGIC[: len(header)]:
        return b""
    page = header + file.read(header[-1] if len(header) == _FIXED_BYTES else 0)
    return page + file.read(max(0, _length(page) - len(page)))


def _length(page: bytes) -> int:
    """The number of bytes that a page should have, as far as its beginning tells."""
    if len(page) < _FIXED_BYTES:
        return _FIXED_BYTES
    segments = page[_FIXED_BYTES - 1]
    return _FIXED_BYTES + segments + sum(page[_FIXED_BYTES:][:segments])


def _is_whole(page: bytes) -> bool:
    """Whether a page has the check sum that it tells: CRC-32, in the other order of bits than zlib's."""
    summed = bytearray(page)
    summed[_CHECK_SUM] = bytes(4)
    check = zlib.crc32(summed.translate(_REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{check:032b}"[::-1], 2) == int.from_bytes(page[_CHECK_SUM], "little")


def _next_page(file: BinaryIO, at: int) -> int | None:
    """Where, behind the place `at`, a page begins."""
    while True:
        file.seek(at)
        data = file.read(_SEARCHED_BYTES)
        if (found := data.find(_MAGIC)) >= 0:
            return at + found
        if len(data) < _SEARCHED_BYTES:
            return None
        at += len(data) - len(_MAGIC) + 1
