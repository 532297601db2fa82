"""Resampling by torchaudio's default filter, so that speech is found where the benchmark finds it.

Band-limited interpolation (J. O. Smith, ccrma.stanford.edu/~jos/resample): a sinc up to 0.99 of the lower
rate's half, six zero crossings to each side, under a Hann window.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from moshi_agent.audio.framing import Samples

_CROSSINGS = 6
_ROLL_OFF = 0.99


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Brings samples [N] from one rate to another, [ceil(N * to / from)]."""
    if from_hz == to_hz:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    down, up = from_hz // divisor, to_hz // divisor
    weights, reach = _weights(down, up)
    padded = np.pad(samples, (reach, reach + down))
    outputs = torch.nn.functional.conv1d(torch.from_numpy(padded)[None, None], weights, stride=down)
    wanted = math.ceil(len(samples) * up / down)
    return np.ascontiguousarray(outputs[0].T.reshape(-1)[:wanted].numpy())


def _weights(down: int, up: int) -> tuple[torch.Tensor, int]:
    """[up, 1, 2 * reach + down]: of each output of a period, and how many inputs lie before its first."""
    cutoff = min(down, up) * _ROLL_OFF
    reach = math.ceil(_CROSSINGS * down / cutoff)
    inputs = torch.arange(-reach, reach + down, dtype=torch.float64) / down
    outputs = torch.arange(0, -up, -1)[:, None, None] / up
    crossings = ((outputs + inputs) * cutoff).clamp(-_CROSSINGS, _CROSSINGS)
    window = torch.cos(crossings * math.pi / _CROSSINGS / 2) ** 2
    angles = crossings * math.pi
    sinc = torch.where(angles == 0, torch.ones_like(angles), angles.sin() / angles)
    return (sinc * (window * (cutoff / down))).to(torch.float32), reach
