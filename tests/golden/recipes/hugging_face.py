"""The same models in the format of Hugging Face Transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from moshi.models.lm_utils import _delay_sequence, _undelay_sequence
from torch import Tensor
from transformers import MimiConfig, MimiModel, MoshiConfig, MoshiForConditionalGeneration

from recipes.common import randomise, seeded, synthetic_speech, write_tensors

_MIMI = {
    "hidden_size": 16,
    "num_filters": 2,
    "codebook_size": 16,
    "codebook_dim": 12,
    "vector_quantization_hidden_dimension": 12,
    "num_quantizers": 8,
    "upsample_groups": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    # Longer than what is encoded here: Transformers applies the window only to some calls.
    "sliding_window": 60,
}
_NUM_CODEBOOKS = 4
_MOSHI = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 88,
    "num_codebooks": _NUM_CODEBOOKS,
    "sliding_window": 40,
    "max_position_embeddings": 40,
}
_DEPTH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 44,
    "sliding_window": _NUM_CODEBOOKS,
    "max_position_embeddings": _NUM_CODEBOOKS + 1,
}
_DELAYS = [0, 0, 1, 1, 1, 0, 1, 1, 1]
_FRAMES = 16


def _prepare_mimi(mimi: MimiModel, seed: int, speech: Tensor) -> None:
    """Random weights, then codebooks drawn from the residuals that reach them. speech: [B, 1, T]."""
    randomise(mimi, seed)
    generator = seeded(seed)
    embedding = mimi.downsample(
        mimi.encoder_transformer(mimi.encoder(speech).transpose(1, 2))[0].transpose(1, 2)
    )
    quantizer = mimi.quantizer
    for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        residual = embedding if part.input_proj is None else part.input_proj(embedding)
        for layer in part.layers:
            book, points = layer.codebook, residual.transpose(1, 2).reshape(-1, residual.shape[1])
            chosen = torch.randint(len(points), (book.codebook_size,), generator=generator)
            noise = torch.randn(book.embed_sum.shape, generator=generator)
            usage = 0.5 + 10 * torch.rand(book.codebook_size, generator=generator)
            book.cluster_usage.copy_(usage)
            book.embed_sum.copy_((points[chosen] + 0.3 * points.std() * noise) * usage[:, None])
            book._embed = None
            residual = residual - layer.decode(layer.encode(residual))


def _mimi_outputs(mimi: MimiModel, speech: Tensor) -> dict[str, Tensor]:
    codes = mimi.encode(speech / 32768).audio_codes
    return {"speech": speech, "codes": codes.to(torch.uint8), "decoded": mimi.decode(codes).audio_values}


@torch.no_grad()
def write_mimi(root: Path) -> None:
    """`kyutai/mimi` as Transformers has it: one file."""
    folder = root / "hf_mimi"
    mimi = MimiModel(MimiConfig(**_MIMI)).eval()
    _prepare_mimi(mimi, 12, synthetic_speech(3, 24 * 1920, 24_000, seed=12) / 32768)
    mimi.save_pretrained(folder / "checkpoint")
    mimi = MimiModel.from_pretrained(folder / "checkpoint").eval()
    write_tensors(
        folder / "data.safetensors", _mimi_outputs(mimi, synthetic_speech(1, _FRAMES * 1920, 24_000, seed=13))
    )


@torch.no_grad()
def write_moshi(root: Path) -> None:
    """`kmhf/hf-moshiko` as Transformers has it: shards with an index, the codec among them."""
    folder = root / "hf_moshi"
    mimi_config = _MIMI | {"upsampling_ratios": [4, 3, 2, 2], "sampling_rate": 1200, "codebook_size": 32}
    config = MoshiConfig(audio_encoder_config=mimi_config, depth_decoder_config=_DEPTH, **_MOSHI)
    model = MoshiForConditionalGeneration(config).eval()
    randomise(model, 14)
    speech = synthetic_speech(3, 24 * 96, 1200, seed=14)
    _prepare_mimi(model.audio_encoder, 15, speech / 32768)
    model.save_pretrained(folder / "checkpoint", max_shard_size="150KB")
    (folder / "checkpoint" / "generation_config.json").unlink(missing_ok=True)
    model = MoshiForConditionalGeneration.from_pretrained(folder / "checkpoint").eval()
    tensors = _mimi_outputs(model.audio_encoder, speech[:1, :, : _FRAMES * 96]) | _forward(model)
    write_tensors(folder / "data.safetensors", tensors)
    shards, spread = len(list(folder.glob("checkpoint/model-*"))), float(tensors["text_logits"].std())
    print(f"hf_moshi: {shards} shards, standard deviation of text logits {spread:.1f}")


def _forward(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    """Logits in the layout of Kyutai's LMOutput.

    Transformers leaves the delays to its caller and hides its depth decoder in a loss: both are done here.
    """
    generator, rows, steps = seeded(16), 2, 14
    text = torch.randint(48, (rows, 1, steps), generator=generator)
    codes = torch.cat(
        [text, torch.randint(32, (rows, 2 * _NUM_CODEBOOKS, steps), generator=generator)], dim=1
    )
    initial = torch.tensor([48] + [32] * (2 * _NUM_CODEBOOKS)).view(1, -1, 1).expand(rows, -1, -1)
    delayed = _delay_sequence(_DELAYS, codes, initial)
    fed = torch.cat([initial, delayed], dim=2)[:, :, :-1]
    out = model(
        input_ids=fed[:, 0],
        moshi_audio_codes=fed[:, 1 : 1 + _NUM_CODEBOOKS],
        user_audio_codes=fed[:, 1 + _NUM_CODEBOOKS :],
        attention_mask=torch.ones(rows, steps, dtype=torch.long),
    )
    depth_input = delayed[:, :_NUM_CODEBOOKS].transpose(1, 2).reshape(rows * steps, _NUM_CODEBOOKS)
    hidden = out.last_hidden_state.reshape(rows * steps, 1, -1)
    depth = model.depth_decoder(input_ids=depth_input, last_hidden_state=hidden, use_cache=False).logits
    logits = depth.view(rows, steps, _NUM_CODEBOOKS, -1).transpose(1, 2)
    logits, mask = _undelay_sequence(_DELAYS[1 : 1 + _NUM_CODEBOOKS], logits)
    return {
        "lm_codes": codes.to(torch.int16),
        "logits": logits,
        "mask": mask,
        "text_logits": out.logits[:, None],
    }


def write_all(root: Path) -> None:
    write_mimi(root)
    write_moshi(root)
