"""Ogg pages: what was put in comes out, cut up in any way, and nothing else passes."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent_adapters.protocols.ogg import OggError, OggReader, OggWriter

_packets = st.lists(st.binary(max_size=600), min_size=1, max_size=20)


def _written(packets: list[bytes]) -> bytes:
    writer = OggWriter(serial=7)
    return b"".join(writer.page([packet], granule=n) for n, packet in enumerate(packets))


def _read_in_pieces(data: bytes, size: int) -> list[bytes]:
    reader = OggReader()
    return [packet for i in range(0, len(data), size) for packet in reader.push(data[i : i + size])]


@given(_packets, st.integers(1, 700))
def test_packets_come_out_as_they_went_in_however_they_are_cut(packets: list[bytes], size: int) -> None:
    assert _read_in_pieces(_written(packets), size) == packets


def test_several_packets_on_a_page() -> None:
    packets = [b"a" * 255, b"", b"b" * 510, b"c"]
    assert OggReader().push(OggWriter(1).page(packets, 3)) == packets


def test_a_page_that_would_be_too_long_is_refused() -> None:
    with pytest.raises(OggError, match="1 to 255"):
        OggWriter(1).page([b"x" * 300] * 200, 0)


def test_packets_that_go_on_over_pages_are_read() -> None:
    """libsndfile, another implementation, writes pages that do not end with a packet."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 96_000).astype(np.float32)
    file = io.BytesIO()
    sf.write(file, samples, 24_000, format="OGG", subtype="VORBIS")
    data = file.getvalue()
    packets = _read_in_pieces(data, 1000)
    assert packets[0].startswith(b"\x01vorbis")
    assert packets[1].startswith(b"\x03vorbis")
    assert packets[2].startswith(b"\x05vorbis")
    assert len(packets) > 50


@given(st.binary(max_size=400))
def test_bytes_that_are_no_stream_are_refused_or_waited_for(data: bytes) -> None:
    reader = OggReader()
    try:
        packets = reader.push(data)
    except OggError:
        return
    assert packets == []


@given(_packets, st.data())
def test_a_changed_byte_is_noticed(packets: list[bytes], data: st.DataObject) -> None:
    pages = bytearray(_written(packets))
    position = data.draw(st.integers(0, len(pages) - 1))
    pages[position] ^= data.draw(st.integers(1, 255))
    reader = OggReader()
    try:
        found = reader.push(bytes(pages))
    except OggError:
        return
    # A page is left out, or was made longer and is waited for: nothing wrong was given out.
    assert len(found) < len(packets)
    assert not Counter(found) - Counter(packets)


@given(st.integers(0, 9), st.integers(0, 99))
def test_after_a_damaged_page_the_others_are_read(which: int, at: int) -> None:
    """The packets on it are lost, and of those that go on over several pages what is on others as well."""
    writer = OggWriter(1)
    pages = [bytearray(writer.page([bytes([number]) * 100], number)) for number in range(10)]
    pages[which][28 + at] ^= 255
    reader = OggReader()
    found = reader.push(b"".join(pages))
    assert found == [bytes([number]) * 100 for number in range(10) if number != which]
    assert reader.damaged_pages == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_packet_without_its_beginning_or_end_is_left_out(which: int) -> None:
    writer = OggWriter(1)
    first = bytearray(writer.page([b"x" * 255 * 4], 0))
    first = bytearray(
        _with_checksum(bytes(first[:26]) + bytes([4]) + bytes(first[27:31]) + bytes(first[32:]))
    )
    second = bytes(writer.page([b"x" * 10, b"next"], 1))
    second = bytearray(_with_checksum(second[:5] + b"\x01" + second[6:]))
    assert OggReader().push(bytes(first + second)) == [b"x" * 1030, b"next"]
    (first, second)[which][40] ^= 255
    third = writer.page([b"third"], 2)
    found = OggReader().push(bytes(first + second) + third)
    assert found == ([b"next", b"third"] if which == 0 else [b"third"])


def test_a_packet_without_end_is_refused() -> None:
    writer = OggWriter(1)
    page = bytearray(writer.page([b"x" * 255 * 253], 0))
    reader = OggReader()
    endless = bytes(page[:26]) + bytes([253]) + b"\xff" * 253 + b"x" * 255 * 253
    endless = _with_checksum(endless)
    reader.push(endless)
    with pytest.raises(OggError, match="65536"):
        reader.push(_with_checksum(endless[:5] + b"\x01" + endless[6:]))


def _with_checksum(page: bytes) -> bytes:
    """The page, with the checksum that the reference algorithm gives."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = 0
    for byte in blank:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1
        crc &= 0xFFFFFFFF
    return page[:22] + crc.to_bytes(4, "little") + page[26:]
