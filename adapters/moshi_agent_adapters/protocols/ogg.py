"""Packets in and out of Ogg pages (RFC 3533), as they come over a socket: no file, no seeking, no delay.

A page is `OggS`, version, flags, granule position, serial number, sequence number, checksum, and a table of
segment lengths: a packet is cut into segments of 255 bytes and ends with the first one that is shorter.
`opus` says why the stream is not left to a library.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

_HEADER = struct.Struct("<4sBBqIIIB")  # up to and with the number of segments
_CHECKSUM_AT = 22
_LONGEST_SEGMENT = 255
_MOST_SEGMENTS = 255
_CONTINUED, _FIRST = 1, 2  # flags
_LONGEST_PACKET = 1 << 16


class OggError(ValueError):
    """Reports bytes that are no Ogg stream."""


class OggWriter:
    """Writes one logical stream. Every call gives whole pages: nothing waits for the next one."""

    def __init__(self, serial: int) -> None:
        self._serial = serial
        self._sequence = 0

    def page(self, packets: Sequence[bytes], granule: int) -> bytes:
        """Writes one page with these packets, the last of which ends at this granule position.

        Raises:
            OggError: they do not fit on one page.
        """
        lacing = b"".join(_lacing(len(packet)) for packet in packets)
        if not 0 < len(lacing) <= _MOST_SEGMENTS:
            raise OggError(f"{len(lacing)} segments; accepted: 1 to {_MOST_SEGMENTS} on a page")
        flags = 0 if self._sequence else _FIRST
        header = _HEADER.pack(b"OggS", 0, flags, granule, self._serial, self._sequence, 0, len(lacing))
        page = bytearray(b"".join([header, lacing, *packets]))
        struct.pack_into("<I", page, _CHECKSUM_AT, _checksum(page))
        self._sequence += 1
        return bytes(page)


class OggReader:
    """Reads one logical stream, cut up in any way.

    A page whose checksum is wrong is left out, with the packets that are not on other pages as a whole.
    """

    def __init__(self) -> None:
        self.damaged_pages = 0
        self._bytes = bytearray()
        self._begun = b""  # a packet that goes on on the next page
        self._lacks_beginning = False  # what goes on there began on a page that was left out

    def push(self, data: bytes) -> list[bytes]:
        """Takes bytes and returns the packets that they complete.

        Raises:
            OggError: a page that is none, or a packet of over 64 KiB. The reader is of no use afterwards.
        """
        self._bytes += data
        packets: list[bytes] = []
        while (length := self._page_length()) is not None:
            page = bytes(self._bytes[:length])
            del self._bytes[:length]
            packets += self._packets(page)
        return packets

    def _page_length(self) -> int | None:
        """Of the page at the front, if all of it is there."""
        head = self._bytes[:5]
        if not b"OggS\0".startswith(head):
            raise OggError(f"{bytes(head)!r} where a page should begin; accepted: an Ogg stream, version 0")
        if len(self._bytes) < _HEADER.size:
            return None
        body = _HEADER.size + self._bytes[_HEADER.size - 1]
        if len(self._bytes) < body:
            return None
        length = body + sum(self._bytes[_HEADER.size : body])
        return length if len(self._bytes) >= length else None

    def _packets(self, page: bytes) -> list[bytes]:
        _, _, flags, _, _, _, checksum, segments = _HEADER.unpack_from(page)
        if checksum != _checksum(page):
            self.damaged_pages += 1
            self._begun, self._lacks_beginning = b"", True
            return []
        if not flags & _CONTINUED:
            self._begun, self._lacks_beginning = b"", False
        position = _HEADER.size + segments
        packets: list[bytes] = []
        for length in page[_HEADER.size : position]:
            self._begun += page[position : position + length]
            position += length
            if len(self._begun) > _LONGEST_PACKET:
                raise OggError(f"a packet of more than {_LONGEST_PACKET} bytes")
            if length < _LONGEST_SEGMENT:
                packets += [] if self._lacks_beginning else [self._begun]
                self._begun, self._lacks_beginning = b"", False
        return packets


def _lacing(length: int) -> bytes:
    whole, rest = divmod(length, _LONGEST_SEGMENT)
    return bytes([_LONGEST_SEGMENT] * whole + [rest])


def _checksum(page: bytes | bytearray) -> int:
    """The CRC of a page, taken with zeros where it stands itself."""
    table = _table()
    crc = 0
    for byte in page[:_CHECKSUM_AT] + b"\0\0\0\0" + page[_CHECKSUM_AT + 4 :]:
        crc = (crc << 8 & 0xFFFFFFFF) ^ table[crc >> 24 ^ byte]
    return crc


@functools.cache
def _table() -> tuple[int, ...]:
    """What each value of a byte does to the CRC of polynomial 0x04C11DB7, highest bit first."""

    def entry(byte: int) -> int:
        crc = byte << 24
        for _ in range(8):
            crc = crc << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if crc >> 31 else 0)
        return crc

    return tuple(entry(byte) for byte in range(256))
