"""Gives a language model ears: its embeddings of the caller's codes begin as what the codes stand for.

Drawn at random they would have to learn from the answers alone which codes sound alike, and would learn
it of the renderings in the data only. The embeddings of a frame add up to a projection of its latent.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.embedding import TokenEmbedding

EVENNESS = (
    0.7  # 0 keeps the latent's proportions, in which loudness is nearly all; 1 makes all directions equal
)
DEVIATION = 0.3  # of a frame's sum in each dimension: as much as everything else together


@torch.no_grad()
def init_audio_embeddings(model: LMModel, codec: MimiModel, codes: NDArray[np.int16]) -> None:
    """Sets the caller's embeddings of `model`. codes: [N, codebooks] of frames with sound."""
    tables = _code_latents(codec)  # [codebooks, bins, C]
    frames = torch.from_numpy(codes.astype(np.int64))
    latents = torch.stack([table[frames[:, k]] for k, table in enumerate(tables)]).sum(0)
    projection = _projection(latents, model.config.temporal.dim)
    streams = model.emb[model.dep_q :]
    for embedding, table, used in zip(streams, tables, frames.T, strict=True):
        assert isinstance(embedding, TokenEmbedding)
        # Each table is centred on its own, so that a codebook that is not read takes nothing away.
        embedding.weight[: len(table)] = (table - table[used].mean(0)) @ projection
        embedding.weight[len(table) :] = 0


def _code_latents(codec: MimiModel) -> Tensor:
    """What each code adds to the latent, [codebooks, bins, C]."""
    parts = (codec.quantizer.rvq_first, codec.quantizer.rvq_rest)
    return torch.stack(
        [part.output_proj(part.codebook(index).centroids) for part in parts for index in range(part.n_q)]
    )


def _projection(latents: Tensor, dim: int) -> Tensor:
    """From latents [N, C] to `dim` dimensions in which no direction is much larger than another. [C, dim]"""
    values, vectors = torch.linalg.eigh(torch.cov(latents.T))
    # Directions with next to nothing in them are noise, and stay small.
    values = values.clamp(min=float(values[-1]) * 1e-4)
    rotation = torch.linalg.qr(torch.randn(dim, dim))[0][: len(values)]
    projection = vectors @ (values ** (-EVENNESS / 2))[:, None].mul(rotation)
    return projection * (DEVIATION / (latents @ projection).std())
