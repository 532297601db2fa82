"""What every recipe shares: random weights with sensible scales, and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# Standard deviation of each kind of weight, times 1 / sqrt(fan in) where it has one. Found by trial: greedy
# tokens vary, hardly ever tie, and audio neither vanishes nor explodes.
_EMBEDDING_STD = 0.6
_OUTPUT_GAIN = 3.0
_LINEAR_GAIN = 1.3
_CONV_GAIN = 1.3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(module: nn.Module, seed: int) -> None:
    """Replaces every parameter of `module`; the peers' own initial values are near-degenerate.

    Layer scales of 0.01, for one, would let an attention that is plain wrong pass unseen.
    """
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_scaled(name, noise))


def _scaled(name: str, noise: Tensor) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "scale":
        return 0.5 + 0.1 * noise
    if leaf == "alpha" or (leaf == "weight" and noise.dim() == 1):
        return 1.0 + 0.2 * noise
    if leaf in ("bias", "learnt_padding"):
        return 0.2 * noise
    if "emb" in name and ".out1" not in name and ".out2" not in name and "low_rank" not in name:
        return _EMBEDDING_STD * noise
    if noise.dim() == 3 and _is_transposed(name):
        # A kernel of twice the stride: every output sample has two taps per input channel of its group.
        channels = 1 if noise.shape[1] == 1 else noise.shape[0]
        return _CONV_GAIN * noise / math.sqrt(2 * channels)
    if name.startswith(("text_linear", "decoder.lm_head")):
        return _OUTPUT_GAIN * noise / math.sqrt(noise.shape[-1])
    # The depth transformer's output, which no norm scales down, is large already: its heads get no more.
    gain = _CONV_GAIN if "conv" in name else _LINEAR_GAIN
    # Depth weights of Transformers are stacked, [steps, out, in]; a convolution's are [out, in, kernel].
    fan_in = noise.shape[-1] if name.startswith("depth_decoder.") else noise[0].numel()
    return gain * noise / math.sqrt(fan_in)


def _is_transposed(name: str) -> bool:
    return "convtr" in name or name.startswith("upsample.")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, str(path))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def synthetic_speech(rows: int, samples: int, sample_rate_hz: int, seed: int) -> Tensor:
    """Gliding harmonics, noise and pauses as 16-bit samples: int16 [rows, 1, samples]."""
    generator = seeded(seed)
    time = torch.arange(samples) / sample_rate_hz
    out = []
    for _ in range(rows):
        base = sample_rate_hz / 24_000 * (90 + 120 * torch.rand(1, generator=generator))
        glide = torch.cumsum(base * (1 + 0.3 * torch.sin(2 * math.pi * 1.7 * time)), 0) / sample_rate_hz
        level = torch.rand(5, generator=generator)
        tones = sum(level[h] * torch.sin(2 * math.pi * (h + 1) * glide) for h in range(5))
        envelope = torch.sin(2 * math.pi * (1 + level[0]) * time + 6 * level[1]).clamp(min=0)
        out.append(0.15 * tones * envelope + 0.03 * torch.randn(samples, generator=generator))
    return (torch.stack(out)[:, None] * 32767).clamp(-32768, 32767).to(torch.int16)


def random_masks(steps: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which rows run and which are reset before a step: two bool tensors [steps, rows].

    Row 0 is never reset and runs most often; one step runs no row at all.
    """
    generator = seeded(seed)
    probability = torch.full((rows,), 0.7)
    probability[0] = 0.85
    executed = torch.rand(steps, rows, generator=generator) < probability
    executed[steps // 3] = False
    resets = torch.rand(steps, rows, generator=generator) < 0.04
    resets[:2] = False
    resets[:, 0] = False
    resets[steps // 2, 1:] = True
    return executed, resets
