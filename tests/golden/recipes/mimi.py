"""Mimi: offline and desynchronised streaming outputs of Kyutai's package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from moshi.models import loaders
from moshi.models.compression import MimiModel
from torch import Tensor

from recipes.common import random_masks, randomise, seeded, synthetic_speech, write_json, write_tensors

_ROWS = 3
# How far the nearest code must lead the second nearest, relative to its distance, in every decision recorded:
# rounding must not be able to change a code.
_LEAST_MARGIN = 2e-5


def mimi_config(**changes: Any) -> dict[str, Any]:
    """A codec of the published structure, small. `changes` replace keys of any section."""
    dimension = changes.get("dimension", 32)
    config: dict[str, Any] = {
        "sample_rate": 24_000,
        "channels": 1,
        "frame_rate": 12.5,
        "seanet": {
            "channels": 1,
            "dimension": dimension,
            "causal": True,
            "n_filters": 4,
            "n_residual_layers": 1,
            "activation": "ELU",
            "compress": 2,
            "dilation_base": 2,
            "disable_norm_outer_blocks": 0,
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 3,
            "norm": "none",
            "pad_mode": "constant",
            "ratios": [8, 6, 5, 4],
            "true_skip": True,
        },
        "quantizer": {
            "dimension": 16,
            "n_q": 32,
            "bins": 24,
            "input_dimension": dimension,
            "output_dimension": dimension,
        },
        "transformer": {
            "d_model": dimension,
            "num_heads": 4,
            "num_layers": 2,
            "causal": True,
            "layer_scale": 0.01,
            "context": 10,
            "conv_layout": True,
            "max_period": 10_000,
            "gating": "none",
            "norm": "layer_norm",
            "positional_embedding": "rope",
            "dim_feedforward": 64,
            "input_dimension": dimension,
            "output_dimensions": [dimension],
        },
    }
    for key, value in changes.items():
        for section in (config, config["seanet"], config["quantizer"], config["transformer"]):
            if key in section:
                section[key] = value
    return config


def make_mimi(config: dict[str, Any], speech: Tensor, seed: int) -> MimiModel:
    """A codec with random weights whose codebooks were drawn from what it really has to quantise."""
    mimi = loaders.get_mimi(None, config, num_codebooks=config["quantizer"]["n_q"])
    randomise(mimi, seed)
    with torch.no_grad():
        latent = mimi._encode_to_unquantized_latent(speech)
        for quantizer in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
            _draw_codebooks(quantizer, quantizer.input_proj(latent), seed)
    return mimi


def _draw_codebooks(quantizer: Any, projected: Tensor, seed: int) -> None:
    """projected: [B, D, T]. Every level's centroids are residuals that reach it, plus noise."""
    generator = seeded(seed + 1)
    residual = projected
    for layer in quantizer.vq.layers:
        book = layer._codebook
        points = residual.transpose(1, 2).reshape(-1, book.dim)
        chosen = torch.randint(len(points), (book.codebook_size,), generator=generator)
        centroids = points[chosen] + 0.3 * points.std() * torch.randn(
            book.codebook_size, book.dim, generator=generator
        )
        usage = 0.5 + 10 * torch.rand(book.codebook_size, generator=generator)
        usage[-1] = 0.0  # a dead code: the epsilon that its usage is raised to counts
        book.cluster_usage.copy_(usage)
        book.embedding_sum.copy_(centroids * usage.clamp(min=book.epsilon)[:, None])
        book._initialized.fill_(1)
        book._embedding = None
        residual = residual - layer.decode(layer.encode(residual))


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that `kyutai/mimi` and Moshi's files use: attention projections as one tensor per layer."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("in_projs.0.weight", "in_proj_weight").replace(
            "out_projs.0.weight", "out_proj.weight"
        )
        renamed[name] = tensor
    return renamed


def oldest_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Codebook names of the oldest files."""
    old = {"_initialized": "inited", "cluster_usage": "cluster_size", "embedding_sum": "embed_avg"}
    renamed = {}
    for index, (name, tensor) in enumerate(state.items()):
        stem, _, leaf = name.rpartition(".")
        # The peer reads two old names for the sums; both are in the file.
        leaf = "embed_sum" if leaf == "embedding_sum" and index % 2 else old.get(leaf, leaf)
        renamed[f"{stem}.{leaf}"] = tensor
    return renamed


def offline_outputs(mimi: MimiModel, speech: Tensor) -> dict[str, Tensor]:
    """speech: [B, 1, T]."""
    levels = mimi.total_codebooks
    codes = mimi.encode(speech)
    out = {
        "offline.codes": codes.to(torch.uint8),
        "offline.decoded": mimi.decode(codes),
        "offline.latent": mimi.encode_to_latent(speech, quantize=False),
        "offline.quantized": mimi.encode_to_latent(speech, quantize=True),
        "offline.codes_odd_length": mimi.encode(speech[..., : speech.shape[-1] * 2 // 3 + 7]).to(torch.uint8),
    }
    for count in (1, 3):
        mimi.set_num_codebooks(count)
        few = mimi.encode(speech)
        out[f"offline.codes_{count}"] = few.to(torch.uint8)
        out[f"offline.quantized_{count}"] = mimi.encode_to_latent(speech, quantize=True)
        out[f"offline.decoded_{count}"] = mimi.decode(few[..., :6])
    mimi.set_num_codebooks(levels)
    return out


def streaming_outputs(mimi: MimiModel, frames: Tensor, seed: int) -> dict[str, Tensor]:
    """frames: [steps, B, 1, frame]. Rows that do not run carry frames too, which must leave no trace."""
    executed, resets = random_masks(len(frames), frames.shape[1], seed)
    assert executed[:, 0].sum() * 2 > 3 * mimi.encoder_transformer.transformer.layers[0].self_attn.context
    codes, decoded = [], []
    with mimi.streaming(frames.shape[1]):
        for step, frame in enumerate(frames):
            if resets[step].any():
                mimi.reset_streaming(resets[step])
            mimi.set_exec_mask(executed[step])
            codes.append(mimi.encode(frame))
            decoded.append(mimi.decode(codes[-1])[executed[step]])
    return {
        "streaming.executed": executed,
        "streaming.resets": resets,
        "streaming.codes": torch.stack(codes)[..., 0].to(torch.uint8),  # [steps, B, K]
        "streaming.decoded": torch.cat(decoded),  # [rows that ran, 1, frame], step by step
    }


def least_margin(mimi: MimiModel, frames: Tensor, outputs: dict[str, Tensor], seed: int) -> float:
    """The closest call of any code decision in the recorded outputs, offline and streaming."""
    margins: list[float] = []
    # Rows that do not run may compute anything; only the ones that do are held against ours.
    rows: list[Tensor | None] = [None]

    def watch(book: Any, x: Tensor) -> Tensor:
        distances = torch.cdist(x[None], book.embedding[None])[0]
        nearest = distances.topk(2, dim=-1, largest=False).values
        relative = (nearest[:, 1] - nearest[:, 0]) / nearest[:, 0].clamp(min=1e-12)
        margins.append(float((relative if rows[0] is None else relative[rows[0]]).min()))
        return distances.argmin(-1)

    books = [
        layer._codebook for q in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest) for layer in q.vq.layers
    ]
    for book in books:
        book._quantize = lambda x, book=book: watch(book, x)
    executed, resets = random_masks(len(frames), frames.shape[1], seed)
    with mimi.streaming(frames.shape[1]):
        for step, frame in enumerate(frames):
            if resets[step].any():
                mimi.reset_streaming(resets[step])
            mimi.set_exec_mask(executed[step])
            if executed[step].any():
                rows[0] = executed[step]
                mimi.encode(frame)
    rows[0] = None
    mimi.encode(outputs["offline.speech"].float() / 32768)
    for book in books:
        del book._quantize
    return min(margins)


@torch.no_grad()
def write_case(folder: Path, config: dict[str, Any], rows: int, steps: int, oldest: bool) -> None:
    frame_size = int(config["sample_rate"] / config["frame_rate"])
    rate = config["sample_rate"]
    speech = synthetic_speech(rows, 25 * frame_size, rate, seed=5)
    stream = synthetic_speech(_ROWS, steps * frame_size, rate, seed=6)
    frames = stream.float().div(32768).view(_ROWS, 1, steps, frame_size).permute(2, 0, 1, 3)
    for seed in range(100):
        mimi = make_mimi(
            config, torch.cat([speech, synthetic_speech(2, 25 * frame_size, rate, seed=7)]) / 32768, seed
        )
        outputs = {"offline.speech": speech, "streaming.speech": stream}
        margin = least_margin(mimi, frames, outputs, seed)
        if margin > _LEAST_MARGIN:
            break
    else:
        raise RuntimeError("no seed without a near tie")
    state = published_names(mimi.state_dict())
    write_tensors(folder / "model.safetensors", oldest_names(state) if oldest else state)
    write_json(folder / "config.json", config)
    # What is recorded is what the peer says of the file, not of the model that the file was made from.
    mimi = loaders.get_mimi(folder / "model.safetensors", config, num_codebooks=config["quantizer"]["n_q"])
    outputs |= offline_outputs(mimi, speech / 32768) | streaming_outputs(mimi, frames, seed)
    write_tensors(folder / "data.safetensors", outputs)
    codes = outputs["offline.codes"]
    used = [len(codes[:, level].unique()) for level in range(codes.shape[1])]
    print(f"{folder.name}: seed {seed}, closest call {margin:.1e}, {min(used)} to {max(used)} codes used")


def write_all(root: Path) -> None:
    write_case(root / "mimi", mimi_config(), rows=1, steps=26, oldest=False)
    # Small frames, so that a long stream is a small file; projections around the transformers.
    small = mimi_config(sample_rate=600, ratios=[4, 3, 2], d_model=16, num_heads=2, n_q=6, bins=40, context=7)
    small["seanet"]["n_residual_layers"] = 2
    write_case(root / "mimi_oldest_names", small, rows=2, steps=90, oldest=True)
