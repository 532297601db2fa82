"""GPT-Live's audio fixture: exact sound of the client's, which is played instead of the bot's."""

from __future__ import annotations

import numpy as np

from moshi_agent.audio.framing import FRAME_S, SAMPLE_RATE_HZ, Samples
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent_adapters.protocols.call_protocol import ProtocolError

LONGEST_S = 30.0


class LiveFixture:
    """Gives the sound out in the chunks in which the bot's own would come.

    Args:
        data: 16-bit samples, little-endian, mono, at 24 kHz.
        rate_hz: of the output.

    Raises:
        ProtocolError: half a sample, none at all, or more than 30 s.
    """

    def __init__(self, data: bytes, rate_hz: int) -> None:
        if not data or len(data) % 2:
            message = f"a fixture of {len(data)} bytes; accepted: 16-bit samples at 24 kHz, mono, no header"
            raise ProtocolError(message, "invalid_audio")
        samples: Samples = (np.frombuffer(data, "<i2") / 32767).astype(np.float32)
        self.seconds = len(samples) / SAMPLE_RATE_HZ
        if self.seconds > LONGEST_S:
            raise ProtocolError(
                f"a fixture of {self.seconds:.1f} s; accepted: {LONGEST_S:g}", "invalid_audio"
            )
        self._left = _resampled(samples, rate_hz)

    @property
    def held_s(self) -> float:
        """Returns for how long the bot itself has nothing to say: whole frames."""
        return self.seconds + 2 * FRAME_S

    @property
    def is_over(self) -> bool:
        """Whether all of it has been given out."""
        return not len(self._left)

    def next(self, length: int) -> Samples:
        """Returns the next samples [length]; silence where there are none any more."""
        chunk, self._left = self._left[:length], self._left[length:]
        return np.concatenate([chunk, np.zeros(length - len(chunk), np.float32)])


def _resampled(samples: Samples, rate_hz: int) -> Samples:
    """[N] at 24 kHz -> [N * rate / 24000]; at 24 kHz the samples themselves."""
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    resampler = StreamResampler(SAMPLE_RATE_HZ, rate_hz)
    length = round(len(samples) * rate_hz / SAMPLE_RATE_HZ)
    rest = np.zeros(SAMPLE_RATE_HZ, np.float32)  # brings out what is held back
    return np.concatenate([resampler.push(samples), resampler.push(rest)])[:length]
