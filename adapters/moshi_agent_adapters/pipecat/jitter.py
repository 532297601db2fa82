"""Shorter jitter buffers for WebRTC."""

from __future__ import annotations


def use_short_jitter_buffers(packets: int = 1) -> None:
    """Makes aiortc hold back fewer packets of 20 ms before it plays; without this it holds back four.

    Saves 60 ms at every end of a call that runs on aiortc, and makes words break up on a network whose
    packets scatter by more than what is left. After a lost packet, aiortc waits for it until its buffer is
    full, and holds back that much for the rest of the call: 280 ms as it is, 40 ms with one packet here.

    Concerns every connection that is made afterwards in this process. aiortc has no setting for it, so this
    replaces a name in its module: choose it, and try it, per version of aiortc (tested with 1.16.0).

    Args:
        packets: how many to hold back, 0 to 15.

    Raises:
        ValueError: another number.
    """
    from aiortc import jitterbuffer, rtcrtpreceiver

    if not 0 <= packets <= 15:
        raise ValueError(f"packets={packets}; accepted: 0 to 15")

    class ShortJitterBuffer(jitterbuffer.JitterBuffer):
        def __init__(self, capacity: int, prefetch: int = 0, is_video: bool = False) -> None:
            if not is_video:
                # A power of two, which aiortc needs, and room for two packets more than are held back.
                capacity, prefetch = 1 << (packets + 2).bit_length(), packets
            super().__init__(capacity, prefetch, is_video)

    setattr(rtcrtpreceiver, "JitterBuffer", ShortJitterBuffer)  # noqa: B010
