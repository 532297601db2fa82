"""Looks at the pages of an Ogg file (RFC 3533) without decoding them."""

from __future__ import annotations

from pathlib import Path

_FIRST_PAGE_BIT = 0x02  # of a page's flags: a logical stream begins here
_FIXED_BYTES = 27  # of a page's header, before its table of segments


def is_chained(source: Path) -> bool:
    """Whether a second stream begins behind the first, as in recordings that were joined."""
    has_body = False  # a page that begins no stream has been seen
    with source.open("rb") as file:
        while True:
            header = file.read(_FIXED_BYTES)
            if len(header) < _FIXED_BYTES or header[:4] != b"OggS":
                return False
            begins_stream = bool(header[5] & _FIRST_PAGE_BIT)
            if begins_stream and has_body:
                return True
            has_body |= not begins_stream
            file.seek(sum(file.read(header[26])), 1)
