# pyright: basic
"""Decodes audio with FFmpeg, through PyAV: `pip install moshi-agent[media]`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError, InvalidDataError
from numpy.typing import NDArray

from moshi_agent.errors import AudioError

_log = logging.getLogger("moshi_agent.audio")

# Containers of one recording each: playlists could name files and addresses of their own.
_CONTAINERS = "mov,matroska,ogg,mp3,flac,wav,w64,aac,aiff,caf,asf,amr,au,ac3,eac3,mpegts,mpeg,avi,flv"
_MATROSKA = "matroska,webm"  # skips what it cannot read without a word
_SLACK_S = 0.2
ACCEPTED = "wav, flac, ogg, mp3, m4a, mp4, webm, aac"


class MediaDecoder:
    """Decodes the first audio track of a file, however long it is. See `decoding.Decoder`.

    Args:
        reason: why libsndfile does not decode it, for the error.

    Raises:
        AudioError: FFmpeg cannot read the file, or there is no audio track in it.
    """

    frames: int | None = None

    def __init__(self, source: Path, reason: str) -> None:
        self._source = source
        try:
            options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
            self._container = av.open(str(source), options=options)
        except (FFmpegError, ValueError) as error:
            raise AudioError(f"{source} cannot be read as audio ({reason}); accepted: {ACCEPTED}") from error
        if not self._container.streams.audio:
            self._container.close()
            raise AudioError(f"{source} has no audio in it")
        track = self._container.streams.audio[0]
        if track.codec_context is None or not track.codec_context.channels:
            self._container.close()
            raise AudioError(f"{source} cannot be read as audio ({reason}): its codec is not known")
        self.channels: int = track.codec_context.channels
        self.rate_hz: int = track.codec_context.sample_rate or 0
        self._blocks = self._decoded(track)
        self._rest = np.empty((0, self.channels), np.float32)

    def read(self, frames: int) -> NDArray[np.float32]:
        """Returns [n, channels]; see `Decoder.read`."""
        parts, missing = [self._rest], frames - len(self._rest)
        while missing > 0 and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            missing -= len(block)
        samples = np.concatenate(parts)
        self._rest = samples[frames:]
        return samples[:frames]

    def skip(self, frames: int) -> None:
        """See `Decoder.skip`. FFmpeg's own seeking is not exact to the sample: this decodes."""
        while frames > 0 and len(block := self.read(min(frames, 1 << 17))):
            frames -= len(block)

    def close(self) -> None:
        """See `Decoder.close`."""
        self._container.close()

    def _decoded(self, track: av.AudioStream) -> Iterator[NDArray[np.float32]]:
        """The track's blocks, [n, channels], brought to the form that the stream begins with."""
        converter, form = None, None
        for frame in self._frames(track):
            frame.pts = None
            if (now := (frame.format.name, frame.layout.name, frame.sample_rate)) != form:
                yield from _converted(converter, None)
                layout = track.codec_context.layout if self.channels > 2 else self._layout
                converter = av.AudioResampler(format="flt", layout=layout, rate=self.rate_hz)
                form = now
            yield from _converted(converter, frame)
        yield from _converted(converter, None)

    def _frames(self, track: av.AudioStream) -> Iterator[av.AudioFrame]:
        """What can be decoded. Where two recordings were joined, a packet at the seam is good for nothing."""
        damaged, is_empty, decoded_s = 0, True, 0.0
        try:
            for packet in self._container.demux(track):
                try:
                    frames = packet.decode()
                except InvalidDataError:
                    damaged += 1
                    continue
                is_empty = is_empty and not frames
                decoded_s += sum(frame.samples / frame.sample_rate for frame in frames)
                yield from frames
        except FFmpegError as error:
            raise AudioError(f"{self._source} is damaged: {error.strerror}") from error
        if damaged and is_empty:
            raise AudioError(f"{self._source} is damaged: nothing in it can be decoded")
        if damaged:
            _log.warning(
                "%s is damaged in %d place%s: the rest is read", self._source, damaged, "s"[: damaged > 1]
            )
        if decoded_s < self._promised_s - _SLACK_S:
            _log.warning(
                "%s lasts %.1f s by its header: the %.1f s that can be decoded are read",
                self._source,
                self._promised_s,
                decoded_s,
            )

    @property
    def _promised_s(self) -> float:
        """How long the track is by the header, where FFmpeg has that from nowhere else; otherwise 0."""
        is_told = self._container.format.name == _MATROSKA and len(self._container.streams) == 1
        return (self._container.duration or 0) / av.time_base if is_told else 0.0

    @property
    def _layout(self) -> str:
        return "mono" if self.channels == 1 else "stereo"


def _converted(
    converter: av.AudioResampler | None, frame: av.AudioFrame | None
) -> Iterator[NDArray[np.float32]]:
    """Converts a block, or what is left of the stream where there is none."""
    if converter is None:
        return
    for part in converter.resample(frame):
        yield part.to_ndarray().astype(np.float32, copy=False).reshape(part.samples, -1)
