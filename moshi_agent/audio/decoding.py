"""Decodes audio files to their real end, whatever their headers promise.

libsndfile decodes what it can be trusted with; FFmpeg, through PyAV where that is installed, the rest:
formats that phones and browsers record, and files whose header does not say how long they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from moshi_agent.audio.container_header import MendedFile, audio_chunk, open_mended
from moshi_agent.audio.flac_streams import FlacStream, flac_streams
from moshi_agent.audio.mp3_header import Mp3Length, mp3_length
from moshi_agent.audio.ogg_pages import ogg_pages
from moshi_agent.errors import AudioError

_log = logging.getLogger("moshi_agent.audio")

# An mp3 has its length in whole frames, and decoders differ in how much of the last one they give.
_MP3_FRAME_SAMPLES = 1152
_HEADER_BYTES = 4096  # of a file that says it has no audio in it
MEDIA_HINT = "pip install 'moshi-agent[media]'"
LIBSNDFILE_READS = "wav, flac, ogg, mp3"


class Decoder(Protocol):
    """A file that is being decoded, from its beginning to its end."""

    channels: int
    rate_hz: int
    frames: int | None  # samples of each channel; None where only decoding tells

    def read(self, frames: int) -> NDArray[np.float32]:
        """Returns the next samples, [n, channels], n at most `frames`, 0 at the end.

        Raises:
            AudioError: the file ends before it should.
        """
        ...

    def skip(self, frames: int) -> None:
        """Leaves out so many samples of each channel, from the beginning."""
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


def open_decoder(source: Path) -> Decoder:
    """Opens a file with the decoder that reads all of it.

    Raises:
        AudioError: no decoder knows the format, the file is known to be cut off, or has no audio in it.
    """
    chunk, pages = audio_chunk(source), ogg_pages(source)
    if (chunk is not None and chunk.is_cut_off) or (pages is not None and pages.is_cut_off):
        raise AudioError(f"{source} is truncated: its header promises more audio than there is")
    if pages is not None and pages.lost_at is not None:
        raise AudioError(f"{source} is damaged: no page of Ogg can be read at byte {pages.lost_at}")
    if pages is not None and pages.is_chained:
        return _open_media(source, "it is several recordings, one behind the other")
    if len(streams := flac_streams(source)) > 1:
        return _open_joined(source, streams)
    try:
        file = sf.SoundFile(open_mended(source, chunk))
    except (sf.LibsndfileError, TypeError) as error:
        # A TypeError is how soundfile says that a .raw file has no header.
        reason = str(getattr(error, "error_string", "it has no header")).rstrip(".")
        return _open_media(source, reason)
    try:
        return _checked(source, file)
    except BaseException:
        file.close()
        raise


def _open_joined(source: Path, streams: Sequence[FlacStream]) -> Decoder:
    if not all(stream.frames for stream in streams):
        return _open_media(source, "it is several recordings, and not all of them say how long they are")
    if len({(stream.rate_hz, stream.channels) for stream in streams}) > 1:
        raise AudioError(
            f"{source} is {len(streams)} recordings of different rates or channels, one behind the other: "
            "a file of each is needed"
        )
    return JoinedDecoder(source, streams)


def _checked(source: Path, file: sf.SoundFile) -> Decoder:
    """The decoder for a file that libsndfile can open."""
    if _says_nothing_of_its_length(source, file):
        file.close()
        return _open_media(source, "its header does not say how long it is")
    if file.frames == 0:
        raise AudioError(f"{source} has no audio in it")
    if file.format == "MP3":
        return _checked_mp3(source, file)
    return LibsndfileDecoder(source, file, file.frames)


def _checked_mp3(source: Path, file: sf.SoundFile) -> Decoder:
    length = mp3_length(source)
    if length is Mp3Length.CUT_OFF:
        raise AudioError(f"{source} is truncated: its header promises more audio than there is")
    if length is Mp3Length.KNOWN:
        return LibsndfileDecoder(source, file, file.frames, allowance=_MP3_FRAME_SAMPLES)
    try:
        decoder = _open_media(source, "its length is not known")
    except AudioError as error:
        _log.warning("%s; what libsndfile finds of it is read", error)
        return LibsndfileDecoder(source, file, file.frames, allowance=file.frames)
    file.close()
    return decoder


def _says_nothing_of_its_length(source: Path, file: sf.SoundFile) -> bool:
    """Whether a recorder never came to fill in the length."""
    is_empty = file.frames == 0 and source.stat().st_size > _HEADER_BYTES
    return is_empty or (file.format == "FLAC" and file.frames > source.stat().st_size * 1000)


def _open_media(source: Path, reason: str) -> Decoder:
    """Opens the file with FFmpeg. Raises AudioError with `reason` where PyAV is not installed."""
    try:
        from moshi_agent.audio.media_decoder import MediaDecoder
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise AudioError(
            f"{source} cannot be read as audio ({reason}); accepted: {LIBSNDFILE_READS}, and with "
            f"{MEDIA_HINT} m4a, mp4, webm, aac and others"
        ) from error
    return MediaDecoder(source, reason)


class LibsndfileDecoder:
    """Decodes with libsndfile.

    Args:
        frames: samples of each channel that the file promises.
        allowance: how many of them may be missing.
    """

    def __init__(self, source: Path, file: sf.SoundFile, frames: int, allowance: int = 0) -> None:
        self.channels: int = file.channels
        self.rate_hz: int = file.samplerate
        self.frames: int | None = frames
        self._source, self._file = source, file
        self._least = frames - allowance
        self._position = 0

    def read(self, frames: int) -> NDArray[np.float32]:
        """Returns [n, channels]; see `Decoder.read`."""
        try:
            block = cast("NDArray[np.float32]", self._file.read(frames, dtype="float32", always_2d=True))
        except sf.LibsndfileError as error:
            reason = error.error_string.rstrip(".")
            raise AudioError(f"{self._source} is damaged or truncated ({reason})") from error
        self._position += len(block)
        if len(block) < frames and self._position < self._least:
            raise AudioError(
                f"{self._source} is damaged or truncated: its header promises {self.frames} samples, "
                f"{self._position} can be decoded"
            )
        return block

    def skip(self, frames: int) -> None:
        """See `Decoder.skip`."""
        self._position = self._file.seek(min(frames, self.frames or 0))

    def close(self) -> None:
        """See `Decoder.close`."""
        self._file.close()


class JoinedDecoder:
    """Decodes with libsndfile what stands one behind the other in a file, as one.

    Args:
        streams: of one rate and number of channels, which say how long they are.
    """

    def __init__(self, source: Path, streams: Sequence[FlacStream]) -> None:
        self.channels: int = streams[0].channels
        self.rate_hz: int = streams[0].rate_hz
        self.frames: int | None = sum(stream.frames for stream in streams)
        self._source, self._waiting = source, list(streams)
        self._decoder = self._next()

    def read(self, frames: int) -> NDArray[np.float32]:
        """Returns [n, channels]; see `Decoder.read`."""
        blocks, missing = [self._decoder.read(frames)], frames
        while (missing := missing - len(blocks[-1])) and self._waiting:
            self._decoder.close()
            self._decoder = self._next()
            blocks.append(self._decoder.read(missing))
        return np.concatenate(blocks)

    def skip(self, frames: int) -> None:
        """See `Decoder.skip`."""
        while self._waiting and frames >= (self._decoder.frames or 0):
            frames -= self._decoder.frames or 0
            self._decoder.close()
            self._decoder = self._next()
        self._decoder.skip(frames)

    def close(self) -> None:
        """See `Decoder.close`."""
        self._decoder.close()

    def _next(self) -> LibsndfileDecoder:
        """The decoder of the stream that comes next. One at a time is open: there may be thousands."""
        stream = self._waiting.pop(0)
        file = sf.SoundFile(MendedFile(self._source, stream.start + stream.length, start=stream.start))
        return LibsndfileDecoder(self._source, file, stream.frames)
