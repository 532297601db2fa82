"""The audio formats of GPT-Live: 16-bit samples at 16 or 24 kHz, mu-law and A-law at 8 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import Samples
from moshi_agent_adapters.protocols import g711
from moshi_agent_adapters.protocols.call_protocol import ProtocolError

_LAWS: dict[str, g711.Law] = {"audio/pcmu": "mu", "audio/pcma": "a"}
_RATES = {"audio/pcm": (24_000, 16_000), "audio/pcmu": (8_000,), "audio/pcma": (8_000,)}


@dataclass(frozen=True)
class LiveAudio:
    """Describes one audio format, the same for both directions."""

    kind: str
    rate: int  # in Hz

    @property
    def name(self) -> dict[str, object]:
        """Returns the format's name as the protocol writes it."""
        return {"type": self.kind, "rate": self.rate}

    def decode(self, data: bytes) -> NDArray[np.int16]:
        """Returns the samples [N] of bytes. Raises ProtocolError for half a sample."""
        if self.kind in _LAWS:
            return g711.decode(data, _LAWS[self.kind])
        if len(data) % 2:
            raise ProtocolError(f"{len(data)} bytes of audio; accepted: 16-bit samples", "invalid_audio")
        return np.frombuffer(data, "<i2")

    def encode(self, pcm: Samples) -> bytes:
        """Returns the bytes of samples [N] from -1 to 1."""
        whole = (pcm.clip(-1, 1) * 32767).round().astype("<i2")
        return g711.encode(whole, _LAWS[self.kind]) if self.kind in _LAWS else whole.tobytes()


PCM_24K = LiveAudio("audio/pcm", 24_000)


def audio_format(wanted: dict[str, Any]) -> LiveAudio:
    """Reads the format in `session.audio.format`; 16-bit samples at 24 kHz if it says nothing.

    Raises:
        ProtocolError: there is no such format.
    """
    kind = wanted.get("type", PCM_24K.kind)
    rates = _RATES.get(kind) if isinstance(kind, str) else None
    if rates is None or wanted.get("rate", rates[0]) not in rates:
        accepted = ", ".join(f"{name} {rate}" for name, those in _RATES.items() for rate in those)
        raise ProtocolError(
            f"audio.format {str(wanted)[:80]}; accepted: {accepted}", "unsupported_audio_format"
        )
    return LiveAudio(str(kind), int(wanted.get("rate", rates[0])))
