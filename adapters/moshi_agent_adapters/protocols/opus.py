# pyright: basic
"""One continuous Ogg/Opus stream (RFC 7845) each way, with libopus as PyAV has it.

Nothing waits: what is pushed comes out on whole pages, but for less than one packet of 20 ms.

Kyutai's `sphn` reads and writes such streams with no delay either. It is not used here because it refuses
packets of 60 ms, which the format allows, and decodes all that is pushed at once: nothing could bound what a
few bytes decode to.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from numpy.typing import NDArray

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Framer, Samples
from moshi_agent.errors import AudioError
from moshi_agent_adapters.protocols.ogg import OggError, OggReader, OggWriter

DECODED_RATE_HZ = 48_000  # what libopus decodes at; also the rate of granule positions
_PACKET_MS = 20
_PRE_SKIP = 120  # samples at 48 kHz that libopus holds back in its low-delay mode
_HEAD = struct.Struct("<8sBBHIhB")  # of the OpusHead packet
_SILENT_PACKETS = 8  # after so many the encoder's state does not change any more
_SHORT_SAMPLES = DECODED_RATE_HZ // 10
_MOST_SHORT_STREAMS = 20  # shorter than that, in a call: each wants a decoder, and a page can begin 255
_DIGITAL_SILENCE_BYTES = 8  # packets of silence are not longer


class OpusWriter:
    """Takes mono samples at 24 kHz, and gives Ogg pages."""

    def __init__(self, bit_rate: int = 40_000) -> None:
        encoder = AudioCodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE_HZ, "mono", "flt"
        encoder.bit_rate = bit_rate
        encoder.options = {
            "application": "lowdelay",
            "frame_duration": str(_PACKET_MS),
            "compression_level": "5",
        }
        encoder.open()
        self._encoder = encoder
        self._framer = Framer(SAMPLE_RATE_HZ * _PACKET_MS // 1000)
        self._ogg = OggWriter(serial=secrets.randbits(32))
        self._packets = 0
        self._silent_packets = 0
        self._last_packet = b""

    def header(self) -> bytes:
        """Returns the two pages that begin the stream."""
        head = _HEAD.pack(b"OpusHead", 1, 1, _PRE_SKIP, SAMPLE_RATE_HZ, 0, 0)
        vendor = b"moshi-agent"
        tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
        return self._ogg.page([head], 0) + self._ogg.page([tags], 0)

    def push(self, samples: Samples) -> bytes:
        """Takes samples [N] and returns a page with the packets that they complete, or nothing."""
        packets = [self._packet(frame) for frame in self._framer.push(samples)]
        return b"".join(self._page(packets[start : start + 8]) for start in range(0, len(packets), 8))

    def _page(self, packets: list[bytes]) -> bytes:
        self._packets += len(packets)
        return self._ogg.page(packets, self._packets * DECODED_RATE_HZ * _PACKET_MS // 1000)

    def _packet(self, frame: Samples) -> bytes:
        """One packet. Lasting digital silence is one packet over and over, which saves its encoding.

        libopus takes several times as long for zeros as for speech.
        """
        if frame.any():
            self._silent_packets = 0
        elif self._silent_packets >= _SILENT_PACKETS and len(self._last_packet) <= _DIGITAL_SILENCE_BYTES:
            return self._last_packet
        else:
            self._silent_packets += 1
        audio = AudioFrame.from_ndarray(frame[None], format="flt", layout="mono")
        audio.sample_rate = SAMPLE_RATE_HZ
        (packet,) = self._encoder.encode(audio)
        self._last_packet = bytes(packet)
        return self._last_packet


class OpusReader:
    """Ogg/Opus bytes in, mono samples at 48 kHz out. What is damaged by itself is left out."""

    def __init__(self) -> None:
        self._ogg = OggReader()
        self._damaged_pages = 0  # that were told of
        self._bad_packet: str | None = None  # why one could not be decoded that was not told of
        self._decoder: AudioCodecContext | None = None
        self._has_tags = False
        self._samples = 0  # of the stream that is read
        self._short_streams = 0

    def push(self, data: bytes) -> Iterator[NDArray[np.int16]]:
        """Takes bytes, cut up in any way, and yields the samples [N] int16 of each packet they complete.

        A few bytes may hold minutes: stop asking when it is too much.

        Raises:
            AudioError: this is no Ogg/Opus stream of one or two channels, or what follows cannot be found in
                it, or too many streams follow each other with hardly any audio in them.
        """
        try:
            for packet in self._ogg.push(data):
                yield from self._decode(packet)
        except OggError as error:
            raise AudioError(f"the audio is no Ogg stream: {error}") from error
        except FFmpegError as error:
            raise AudioError(f"the audio cannot be decoded as Opus: {error.strerror}") from error

    def take_damage(self) -> str | None:
        """Tells what was left out since it was last asked, None for nothing."""
        pages, self._damaged_pages = self._ogg.damaged_pages - self._damaged_pages, self._ogg.damaged_pages
        packet, self._bad_packet = self._bad_packet, None
        if pages:
            return "the audio has a page of Ogg whose checksum is wrong: it is left out"
        return (
            None if packet is None else f"the audio has a packet that is no Opus ({packet}): it is left out"
        )

    def _decode(self, packet: bytes) -> Iterator[NDArray[np.int16]]:
        if packet.startswith(b"OpusHead"):  # another one begins a chained stream
            self._begin(packet)
        elif self._decoder is None:
            raise AudioError("the audio does not begin with an OpusHead packet")
        elif not self._has_tags:
            self._has_tags = True
        elif packet:
            try:
                frames = self._decoder.decode(av.Packet(packet))
            except FFmpegError as error:
                self._bad_packet = str(error.strerror)
                return
            for frame in frames:
                channels = frame.layout.nb_channels
                samples = frame.to_ndarray().reshape(-1, channels)  # [1, N * channels] -> [N, channels]
                self._samples += len(samples)
                yield samples.mean(axis=1, dtype=np.float32).astype(np.int16)

    def _begin(self, head: bytes) -> None:
        if self._decoder is not None and self._samples < _SHORT_SAMPLES:
            self._short_streams += 1
            if self._short_streams > _MOST_SHORT_STREAMS:
                raise AudioError(
                    f"more than {_MOST_SHORT_STREAMS} Opus streams in a call were shorter than 0.1 s"
                )
        self._decoder, self._has_tags, self._samples = _decoder(head), False, 0


def _decoder(head: bytes) -> AudioCodecContext:
    """A decoder that leaves nothing out: what precedes the pre-skip is a part of the call too."""
    if len(head) < _HEAD.size:
        raise AudioError(f"an OpusHead packet of {len(head)} bytes; accepted: {_HEAD.size}")
    magic, version, channels, _, rate, gain, family = _HEAD.unpack_from(head)
    if version >> 4 or channels not in (1, 2) or family:
        raise AudioError(
            f"Opus {version}, {channels} channels, mapping {family}; accepted: version 1, mono or stereo"
        )
    decoder = AudioCodecContext.create("libopus", "r")
    decoder.extradata = _HEAD.pack(magic, version, channels, 0, rate, gain, family)
    decoder.open()
    return decoder
