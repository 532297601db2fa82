"""Reads the `config.json` of Hugging Face Transformers' Mimi and Moshi.

That library writes many keys that say nothing about the model, so only those that do are read; one
that asks for something our model cannot do is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from moshi_agent.config import (
    DepthConfig,
    MimiConfig,
    MoshiConfig,
    QuantizerConfig,
    SEANetConfig,
    TransformerConfig,
)
from moshi_agent.errors import ConfigError

_MIMI_FIXED: dict[str, tuple[object, ...]] = {
    "use_causal_conv": (True,),
    "pad_mode": ("constant",),
    "trim_right_ratio": (1.0,),
    "use_conv_shortcut": (False,),
    "hidden_act": ("gelu",),
    "norm_eps": (1e-5,),
    "attention_bias": (False,),
    "rope_scaling": (None,),
}
_MOSHI_FIXED: dict[str, tuple[object, ...]] = {
    "rms_norm_eps": (1e-8,),
    "tie_word_embeddings": (False,),
    "rope_scaling": (None,),
}


def is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Tells whether a `config.json` is that library's, not Kyutai's with notes of its in it."""
    if "architectures" in config or "hidden_size" in config:
        return True
    return "transformers_version" in config and "dim" not in config


def read_mimi_config(config: Mapping[str, Any]) -> MimiConfig:
    """Reads the codec's configuration; what is not said has the value of `kyutai/mimi`.

    Raises:
        ConfigError: a value that is not supported.
    """
    _require(config, _MIMI_FIXED, "mimi")
    size = config.get("hidden_size", 512)
    ratios = tuple(config.get("upsampling_ratios") or (8, 6, 5, 4))
    seanet = SEANetConfig(
        channels=config.get("audio_channels", 1),
        dimension=size,
        n_filters=config.get("num_filters", 64),
        n_residual_layers=config.get("num_residual_layers", 1),
        ratios=ratios,
        kernel_size=config.get("kernel_size", 7),
        last_kernel_size=config.get("last_kernel_size", 3),
        residual_kernel_size=config.get("residual_kernel_size", 3),
        dilation_base=config.get("dilation_growth_rate", 2),
        compress=config.get("compress", 2),
    )
    rate = config.get("sampling_rate", 24_000)
    # Not always written down; the codec halves the encoder's rate then.
    frame_rate = config.get("frame_rate") or config.get("_frame_rate") or rate / seanet.hop_length / 2
    _require(config, {"upsample_groups": (size,)}, "mimi")
    inner = config.get("vector_quantization_hidden_dimension", 256)
    _require(config, {"codebook_dim": (inner, None)}, "mimi")
    return MimiConfig(
        sample_rate=rate,
        channels=config.get("audio_channels", 1),
        frame_rate=frame_rate,
        seanet=seanet,
        transformer=_mimi_transformer(config, size),
        quantizer=QuantizerConfig(
            dimension=inner,
            n_q=config.get("num_quantizers", 32),
            n_q_semantic=config.get("num_semantic_quantizers", 1),
            bins=config.get("codebook_size", 2048),
            input_dimension=size,
            output_dimension=size,
        ),
    )


def _mimi_transformer(config: Mapping[str, Any], size: int) -> TransformerConfig:
    heads = config.get("num_attention_heads", 8)
    return TransformerConfig(
        dim=size,
        num_heads=heads,
        num_layers=config.get("num_hidden_layers", 8),
        dim_feedforward=config.get("intermediate_size", 2048),
        layer_scale=config.get("layer_scale_initial_scale", 0.01),
        context=config.get("sliding_window", 250),
        positional_embedding="rope",
        max_period=config.get("rope_theta", 10_000.0),
        kv_repeat=_kv_repeat(config, heads, size),
    )


def read_moshi_config(config: Mapping[str, Any]) -> MoshiConfig:
    """Reads the language model's configuration; what is not said has the value of Moshi 7B.

    Delays are no part of the format; they are those of Moshi: one frame for all but the text and the
    first codebook of each speaker.

    Raises:
        ConfigError: a value that is not supported.
    """
    _require(config, _MOSHI_FIXED, "moshi")
    codec = cast("Mapping[str, Any]", config.get("audio_encoder_config") or {})
    codebooks = config.get("num_codebooks", 8)
    card = config.get("audio_vocab_size") or codec.get("codebook_size", 2048)
    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "ffn_dim": 22_528}
    return MoshiConfig(
        temporal=_transformer(config, sizes),
        depth=_depth(cast("Mapping[str, Any]", config.get("depth_decoder_config") or {}), codebooks),
        delays=(0, *2 * (0, *[1] * (codebooks - 1))),
        n_q=2 * codebooks,
        dep_q=codebooks,
        card=card,
        text_card=config.get("vocab_size", 32_000),
    )


def _depth(config: Mapping[str, Any], codebooks: int) -> DepthConfig:
    _require(config, {"rms_norm_eps": (1e-8,), "num_codebooks": (codebooks,)}, "depth decoder")
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 6, "ffn_dim": 5632}
    return DepthConfig(transformer=_transformer(config, sizes, steps=codebooks), multi_linear=True)


def _transformer(config: Mapping[str, Any], defaults: Mapping[str, int], steps: int = 0) -> TransformerConfig:
    """The temporal transformer, or with `steps` the depth transformer."""
    sizes = {key: config.get(key, default) for key, default in defaults.items()}
    heads, dim = sizes["num_attention_heads"], sizes["hidden_size"]
    return TransformerConfig(
        dim=dim,
        num_heads=heads,
        num_layers=sizes["num_hidden_layers"],
        dim_feedforward=_feedforward(dim, sizes["ffn_dim"]),
        norm="rms_norm_f32",
        gating=config.get("hidden_act", "silu"),
        positional_embedding="none" if steps else "rope",
        max_period=config.get("rope_theta", 10_000.0),
        context=None if steps else config.get("sliding_window", 3000),
        kv_repeat=_kv_repeat(config, heads, dim),
        weights_per_step=steps,
    )


def _feedforward(dim: int, ffn_dim: int) -> int:
    """Our `dim_feedforward`, of which a gated block makes 2/3, for twice its hidden width."""
    hidden = ffn_dim // 2
    if hidden == 21 * dim // 8:  # the rule of its own that goes with 4 * dim
        return 4 * dim
    wanted = (3 * hidden + 1) // 2
    if wanted == 4 * dim:
        wanted += 1
    if 2 * wanted // 3 != hidden:
        raise ConfigError(f"ffn_dim={ffn_dim} for hidden_size={dim}; no gated block has this width")
    return wanted


def _kv_repeat(config: Mapping[str, Any], heads: int, dim: int) -> int:
    _require(config, {"head_dim": (dim // heads, None)}, "attention")
    return heads // (config.get("num_key_value_heads") or heads)


def _require(config: Mapping[str, Any], accepted: Mapping[str, Iterable[object]], where: str) -> None:
    for key, values in accepted.items():
        if key in config and config[key] not in values:
            shown = ", ".join(map(str, values))
            raise ConfigError(f"{where} config: {key}={config[key]!r} is not supported; accepted: {shown}")
