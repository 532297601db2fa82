"""Finds in a file's own header how much audio it promises, and mends sizes that were never filled in.

Knows WAV, RF64 and BW64 (EBU Tech 3306), Wave64, AIFF, CAF, AU, MP4 (ISO/IEC 14496-12), AVI with its OpenDML
extensions, and Matroska with WebM (RFC 9559). What a recorder that was killed, or wrote to a pipe, leaves in
the place of a size is 0, or near the largest that fits.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from moshi_agent.audio.mp3_header import id3_bytes

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MOST_CHUNKS = 1000  # that are looked at
_EMPTY_BYTES = 4096  # what may stand behind the audio of a file that truly has none
_MOST_ELEMENTS = 1 << 16  # of Matroska, likewise
_EBML, _SEGMENT, _CLUSTER = (bytes.fromhex(name) for name in ("1a45dfa3", "18538067", "1f43b675"))
_W64_RIFF, _W64_DATA = (
    name + bytes.fromhex(rest)
    for name, rest in ((b"riff", "2e91cf11a5d628db04c10000"), (b"data", "f3acd3118cd100c04f8edb8a"))
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a container's chunks begin: a name and a size."""

    form: str  # of `struct`
    step: int = 1  # chunks begin at multiples of it
    counts_itself: bool = False  # the size is that of the name and the size, too


_RIFF = _Layout("<4sI", step=2)
_AIFF = _Layout(">4sI", step=2)
_CAF = _Layout(">4sQ")
_W64 = _Layout("<16sQ", step=8, counts_itself=True)


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Where a file's audio is, in bytes.

    Args:
        start: its first byte.
        size: how many there should be; None if the header does not say.
        there: how many there are from `start` to the end of the file.
        mended: bytes to put into the header at these places, so that it says what is there.
        is_last: whether decoders take all that follows for audio, whatever the header says.
    """

    start: int
    size: int | None
    there: int
    mended: tuple[tuple[int, bytes], ...] = ()
    is_last: bool = False

    @property
    def is_cut_off(self) -> bool:
        """Tells whether the header promises more than there is."""
        return self.size is not None and self.size > self.there


def audio_chunk(source: Path) -> AudioChunk | None:
    """Looks for a file's audio; None if it is in none of these containers, or its header is damaged."""
    with source.open("rb") as file:
        start = id3_bytes(file.read(10))
        file.seek(start)
        head = file.read(28)
        try:
            match head[:4], head[8:12], head[4:8]:
                case b"RIFF" | b"RF64" | b"BW64", b"WAVE", _:
                    return _riff(file, start, head[:4])
                case b"RIFF", b"AVI ", _:
                    return _avi(file, start)
                case b"FORM", b"AIFF" | b"AIFC", _:
                    return _aiff(file, start)
                case b"caff", _, _:
                    return _caf(file, start)
                case b".snd" | b"dns.", _, _:
                    return _au(file, start, head)
                case b"riff", _, _ if head[:16] == _W64_RIFF:
                    return _w64(file, start)
                case _, _, b"ftyp":
                    return _mp4(file, start)
                case magic, _, _ if magic == _EBML:
                    return _matroska(file, start)
                case _:
                    return None
        except struct.error:  # it ends within the header
            return None


def open_mended(source: Path, chunk: AudioChunk | None) -> Path | MendedFile:
    """Returns what a decoder reads: the file, or a view of it whose header says what is there."""
    if chunk is None:
        return source
    size = source.stat().st_size
    end = chunk.start + chunk.size if chunk.is_last and chunk.size else size
    return MendedFile(source, end, chunk.mended) if chunk.mended or end < size else source


class MendedFile(io.RawIOBase):
    """Reads a piece of a file, some of its bytes replaced. Is closed when nobody has it.

    Args:
        end: the place behind its last byte.
        mended: bytes that are read in the place of those at a place of the file.
        start: the place of its first byte.
    """

    def __init__(
        self, source: Path, end: int, mended: tuple[tuple[int, bytes], ...] = (), start: int = 0
    ) -> None:
        self._file, self._start, self._end, self._mended = source.open("rb"), start, end, mended
        self._file.seek(start)

    def readable(self) -> bool:
        """See `io.RawIOBase.readable`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase.seekable`."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """See `io.RawIOBase.seek`."""
        from_place = {io.SEEK_SET: self._start, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._end}
        return self._file.seek(from_place[whence] + offset) - self._start

    def tell(self) -> int:
        """See `io.RawIOBase.tell`."""
        return self._file.tell() - self._start

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """See `io.RawIOBase.readinto`."""
        view, at = memoryview(buffer).cast("B"), self._file.tell()
        count = self._file.readinto(view[: max(0, self._end - at)])
        for place, replaced in self._mended:
            for index, byte in enumerate(replaced, place - at):
                if 0 <= index < count:
                    view[index] = byte
        return count

    def close(self) -> None:
        """See `io.RawIOBase.close`."""
        self._file.close()
        super().close()


def _riff(file: BinaryIO, start: int, magic: bytes) -> AudioChunk | None:
    sizes_at = None  # of RF64: 64-bit sizes of all and of the audio
    for name, at, size in _chunks(file, start + 12, _RIFF):
        if name == b"ds64":
            sizes_at = at
        if name == b"data" and (sizes_at is None or size not in (0, 0xFFFF_FFFF)):
            return _chunk(file, at, size, at - 4, "<I")
        if name == b"data" and sizes_at is not None:
            (long_size,) = _unpacked(file, sizes_at + 8, "<Q")
            chunk = _chunk(file, at, long_size, sizes_at + 8, "<Q")
            refers = () if size else ((at - 4, struct.pack("<I", 0xFFFF_FFFF)),)
            known = ((start, b"RF64"),) if magic == b"BW64" else ()  # all but the name is alike
            return replace(chunk, mended=chunk.mended + refers + known)
    return None


def _aiff(file: BinaryIO, start: int) -> AudioChunk | None:
    for name, at, size in _chunks(file, start + 12, _AIFF):
        if name == b"SSND":  # its first eight bytes are an offset and a block's size
            return _chunk(file, at + 8, size - 8, at - 4, ">I", counted=8)
    return None


def _caf(file: BinaryIO, start: int) -> AudioChunk | None:
    for name, at, size in _chunks(file, start + 8, _CAF):
        if name == b"data":  # its first four bytes count edits
            return _chunk(file, at + 4, size - 4, at - 8, ">Q", counted=4)
    return None


def _au(file: BinaryIO, start: int, head: bytes) -> AudioChunk:
    order = ">" if head[:4] == b".snd" else "<"
    offset, size = struct.unpack(f"{order}II", head[4:12])
    return _chunk(file, start + offset, size, start + 8, f"{order}I")


def _w64(file: BinaryIO, start: int) -> AudioChunk | None:
    for name, at, size in _chunks(file, start + 40, _W64):
        if name == _W64_DATA:
            return replace(_chunk(file, at, size), is_last=True)
    return None


def _mp4(file: BinaryIO, start: int) -> AudioChunk | None:
    """The box of a whole recording's samples; one that came in fragments is whole wherever it ends."""
    at, end = start, file.seek(0, io.SEEK_END)
    for _ in range(_MOST_CHUNKS):
        size, name = _unpacked(file, at, ">I4s")
        header = 8
        if size == 1:
            (size,), header = _unpacked(file, at + 8, ">Q"), 16
        if name == b"moof" or size == 0:  # the last box may be as long as the file is
            return None
        if name == b"mdat":
            return AudioChunk(at + header, size - header, end - at - header)
        at += max(size, header)
    return None


def _avi(file: BinaryIO, start: int) -> AudioChunk | None:
    """The first list of packets that is cut off; each RIFF chunk of a long recording has one."""
    for riff, riff_at, _ in _chunks(file, start, _RIFF):
        if riff != b"RIFF":
            return None
        for name, at, size in _chunks(file, riff_at + 4, _RIFF):
            if name == b"LIST" and _unpacked(file, at, "4s") == (b"movi",):
                chunk = _chunk(file, at, size)
                if chunk.size is None or chunk.is_cut_off:
                    return chunk
                break
    return None


def _matroska(file: BinaryIO, start: int) -> AudioChunk | None:
    """The segment, where it is cut off within its clusters; a live stream does not tell its size."""
    _, at, size = _element(file, start)
    name, at, size = _element(file, at + (size or 0))
    if name != _SEGMENT or size is None:
        return None
    segment = AudioChunk(at, size, file.seek(0, io.SEEK_END) - at)
    return segment if segment.is_cut_off and not _goes_beyond_clusters(file, at) else None


def _goes_beyond_clusters(file: BinaryIO, at: int) -> bool:
    """Whether a segment that begins there has all of its clusters, and something else behind them."""
    has_clusters = False
    with suppress(struct.error):  # it ends within an element's header
        for _ in range(_MOST_ELEMENTS):
            name, content, size = _element(file, at)
            if has_clusters and name != _CLUSTER:
                return True
            if size is None:
                return False
            has_clusters |= name == _CLUSTER
            at = content + size
    return False


def _element(file: BinaryIO, at: int) -> tuple[bytes, int, int | None]:
    """The name of an EBML element (RFC 8794), where its content begins, and how long it says that is."""
    file.seek(at)
    data = file.read(12)
    name = data[: _number_bytes(data)]
    packed = data[len(name) :][: _number_bytes(data[len(name) :])]
    most = (1 << 7 * len(packed)) - 1
    size = int.from_bytes(packed, "big") & most
    return name, at + len(name) + len(packed), None if size == most else size


def _number_bytes(data: bytes) -> int:
    """How long the number is that `data` begins with: as its first bit tells that is not zero."""
    length = 9 - data[0].bit_length() if data else 9
    if length > len(data) or length > 8:
        raise struct.error("no number is there")
    return length


def _chunk(
    file: BinaryIO, start: int, size: int, size_at: int = 0, form: str = "", counted: int = 0
) -> AudioChunk:
    """An `AudioChunk` with a size that is packed as `form` at `size_at`, with `counted` bytes more in it."""
    there = file.seek(0, io.SEEK_END) - start
    is_unknown = (size <= 0 and there > _EMPTY_BYTES) or _is_no_size(size)
    if not is_unknown:
        return AudioChunk(start, max(size, 0), there)
    if not form:
        return AudioChunk(start, None, there)
    most = 2 ** (8 * struct.calcsize(form)) - 1
    return AudioChunk(start, None, there, ((size_at, struct.pack(form, min(there + counted, most))),))


def _is_no_size(size: int) -> bool:
    """Whether recorders put this number where they do not know: near the end of 31, 32, 63 or 64 bits."""
    return 0x7F00_0000 <= size <= 0x7FFF_FFFF or 0xFF00_0000 <= size <= 0xFFFF_FFFF or size >= 1 << 62


def _chunks(file: BinaryIO, at: int, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk, where its content begins, and how long that is, from the place `at` on."""
    for _ in range(_MOST_CHUNKS):
        name, size = _unpacked(file, at, layout.form)
        header = struct.calcsize(layout.form)
        size -= header if layout.counts_itself else 0
        yield name, at + header, size
        at += header + -(-max(size, 0) // layout.step) * layout.step


def _unpacked(file: BinaryIO, at: int, form: str) -> tuple[Any, ...]:
    """The values at a place. Raises `struct.error` where the file ends before."""
    if at >= 1 << 63:
        raise struct.error("no file is that long")
    file.seek(at)
    return struct.unpack(form, file.read(struct.calcsize(form)))
