"""A name for what a codec makes of sound, so that codes of another one are never taken for its own."""

from __future__ import annotations

import hashlib

import torch

from moshi_agent.models.mimi import MimiModel

_ENCODING = ("encoder.", "encoder_transformer.", "downsample.", "quantizer.")
_PROBE_FRAMES = 8


@torch.no_grad()
def codec_digest(mimi: MimiModel) -> str:
    """Makes 16 hexadecimal digits of the weights that `mimi` encodes with and its number of codebooks.

    Packed weights cannot be read: the codes of a fixed noise stand for them.
    """
    digest = hashlib.blake2b(repr((mimi.config, mimi.num_codebooks)).encode(), digest_size=8)
    for name, tensor in mimi.state_dict().items():
        if name.startswith(_ENCODING):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    noise = torch.randn(1, 1, _PROBE_FRAMES * mimi.frame_size, generator=torch.Generator().manual_seed(0))
    digest.update(mimi.encode((0.1 * noise).to(mimi.device, mimi.dtype)).cpu().numpy().tobytes())
    return digest.hexdigest()
