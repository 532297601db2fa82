"""Sends audio through an Opus call in one function: encodes, loses packets, conceals, decodes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import soxr
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame

from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Audio

PACKET_SAMPLES = SAMPLE_RATE_HZ // 50  # 20 ms
DECODED_RATE_HZ = 48_000  # what an Opus decoder gives whatever went in
LOOK_AHEAD = 312  # samples at that rate by which the decoded signal is late
CONCEAL_FADE = np.float32(0.5)  # each packet lost in a row is the one before at half the level


def opus_round_trip(audio: Audio, *, bit_rate: int, lost: float, rng: np.random.Generator) -> Audio:
    """Returns `audio` (float32 [samples] at 24 kHz) as the far end hears it, in time with what went in.

    `lost` is the share of 20 ms packets that never arrive; each is concealed by the packet before it, faded.
    """
    encoder = _encoder(bit_rate)
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate = DECODED_RATE_HZ
    decoder.layout = "mono"
    pieces: list[Audio] = []
    for packet in _packets(encoder, audio):
        if pieces and rng.random() < lost:
            pieces.append(pieces[-1] * CONCEAL_FADE)
        else:
            pieces += [_samples(frame) for frame in decoder.decode(cast("Any", packet))]
    return _in_time(np.concatenate(pieces), len(audio))


def _encoder(bit_rate: int) -> AudioCodecContext:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate = SAMPLE_RATE_HZ
    encoder.layout = "mono"
    encoder.format = "flt"
    encoder.bit_rate = bit_rate
    encoder.time_base = Fraction(1, SAMPLE_RATE_HZ)
    encoder.options = {"frame_duration": "20", "application": "voip", "compression_level": "3"}
    return encoder


def _packets(encoder: AudioCodecContext, audio: Audio) -> list[object]:
    # The codec is late by its look-ahead, so two packets of silence push the last samples out.
    count = -(-len(audio) // PACKET_SAMPLES) + 2
    padded = np.zeros(count * PACKET_SAMPLES, np.float32)
    padded[: len(audio)] = audio
    packets: list[object] = []
    for index, piece in enumerate(padded.reshape(count, 1, PACKET_SAMPLES)):
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts = index * PACKET_SAMPLES
        packets += encoder.encode(frame)
    return [*packets, *encoder.encode(None)]


def _samples(frame: AudioFrame) -> Audio:
    samples = frame.to_ndarray().reshape(-1)
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    return samples.astype(np.float32)


def _in_time(decoded: Audio, samples: int) -> Audio:
    """From the decoder's rate to ours, without the codec's look-ahead, [samples]."""
    return soxr.resample(decoded[LOOK_AHEAD:], DECODED_RATE_HZ, SAMPLE_RATE_HZ, quality="MQ")[:samples]
