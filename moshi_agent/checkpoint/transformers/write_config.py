"""Writes the JSON files of Hugging Face Transformers' Mimi and Moshi: sizes, generation, feature extraction.

What the format has no place for is found by reading back what was written: whatever then differs cannot
be held, and is named in the error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from moshi_agent.checkpoint.transformers import config as transformers_config
from moshi_agent.config import MimiConfig, MoshiConfig, TransformerConfig
from moshi_agent.errors import ConfigError
from moshi_agent.nn.feedforward import gated_width

GENERATION_CONFIG_NAME = "generation_config.json"
FEATURES_NAME = "preprocessor_config.json"

# The arguments of LMGen there are names for: for the text, and for the audio in `depth_decoder_config`.
_TEXT_SETTINGS = {"temp_text": "temperature", "top_k_text": "top_k", "top_p_text": "top_p"}
_AUDIO_SETTINGS = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p"}


def write_mimi_config(config: MimiConfig) -> dict[str, Any]:
    """Makes the codec's `config.json`.

    Raises:
        ConfigError: a codec that the format cannot hold.
    """
    seanet, transformer, quantizer = config.seanet, config.transformer, config.quantizer
    values: dict[str, Any] = {
        "model_type": "mimi",
        "sampling_rate": config.sample_rate,
        "frame_rate": config.frame_rate,
        "audio_channels": config.channels,
        "hidden_size": seanet.dimension,
        "num_filters": seanet.n_filters,
        "num_residual_layers": seanet.n_residual_layers,
        "upsampling_ratios": list(seanet.ratios),
        "kernel_size": seanet.kernel_size,
        "last_kernel_size": seanet.last_kernel_size,
        "residual_kernel_size": seanet.residual_kernel_size,
        "dilation_growth_rate": seanet.dilation_base,
        "compress": seanet.compress,
        "codebook_size": quantizer.bins,
        "codebook_dim": quantizer.dimension,
        "vector_quantization_hidden_dimension": quantizer.dimension,
        "num_quantizers": quantizer.n_q,
        "num_semantic_quantizers": quantizer.n_q_semantic,
        "upsample_groups": seanet.dimension,
        "num_hidden_layers": transformer.num_layers,
        "intermediate_size": transformer.dim_feedforward,
        "num_attention_heads": transformer.num_heads,
        "num_key_value_heads": transformer.num_kv_heads,
        "rope_theta": transformer.max_period,
        "sliding_window": transformer.context,
        "layer_scale_initial_scale": transformer.layer_scale,
    }
    _check("the codec", config, transformers_config.read_mimi_config(values))
    if config.resample_stride != 2:
        raise ConfigError(
            f"the codec: {config.resample_stride} encoder steps in a frame cannot be written; accepted: 2"
        )
    return values


def write_moshi_config(config: MoshiConfig, mimi_config: MimiConfig) -> dict[str, Any]:
    """Makes the `config.json` of a language model with its codec.

    Raises:
        ConfigError: a model that the format cannot hold, with what it is that cannot be held.
    """
    depth = config.depth
    if depth is None:
        raise ConfigError("a model without a depth transformer has no place in the format of Transformers")
    values = _transformer(config.temporal) | {
        "model_type": "moshi",
        "architectures": ["MoshiForConditionalGeneration"],
        "vocab_size": config.text_card,
        "audio_vocab_size": config.card,
        "num_codebooks": config.dep_q,
        "rope_theta": config.temporal.max_period,
        "sliding_window": config.temporal.context,
        "max_position_embeddings": config.temporal.context,
        "audio_encoder_config": write_mimi_config(mimi_config),
        "depth_decoder_config": _transformer(depth.transformer)
        | {
            "model_type": "moshi_depth",
            "vocab_size": config.text_card,
            "audio_vocab_size": config.card,
            "input_size": config.temporal.dim,
            "num_codebooks": config.dep_q,
            "sliding_window": config.dep_q,
            "max_position_embeddings": config.dep_q + 1,
        },
    }
    _check("the language model", _relevant(config), transformers_config.read_moshi_config(values))
    return values


def _transformer(config: TransformerConfig) -> dict[str, Any]:
    if not isinstance(config.dim_feedforward, int):
        raise ConfigError(
            "feed-forward blocks of different widths have no place in the format of Transformers"
        )
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": config.gating,
        "ffn_dim": 2 * gated_width(config.dim, config.dim_feedforward),
        "rms_norm_eps": 1e-8,
        "tie_word_embeddings": False,
    }


def _relevant(config: MoshiConfig) -> MoshiConfig:
    """The same model with every value that has no effect at what the format means by it."""
    depth = config.depth
    assert depth is not None
    transformer = depth.transformer
    if transformer.positional_embedding == "none":
        transformer = dataclasses.replace(transformer, max_period=10_000.0, positional_scale=1.0)
    card = None if config.text_card_out == config.text_card else config.text_card_out
    depth = dataclasses.replace(depth, transformer=transformer)
    return dataclasses.replace(config, depth=depth, text_card_out=card)


def _check(what: str, config: object, again: object) -> None:
    """Raises ConfigError naming the fields that were not read back as they are."""
    lost = sorted(_differences(config, again))
    if lost:
        raise ConfigError(f"{what} cannot be held by the format of Transformers: {', '.join(lost)}")


def _differences(ours: Any, again: Any, prefix: str = "") -> list[str]:
    """The fields that differ, with their values."""
    lost: list[str] = []
    for field in dataclasses.fields(ours):
        left: Any = getattr(ours, field.name)
        right: Any = getattr(again, field.name)
        if dataclasses.is_dataclass(left) and dataclasses.is_dataclass(right):
            lost += _differences(left, right, f"{prefix}{field.name}.")
        elif left != right and not (field.name == "dim_feedforward" and _is_as_wide(ours, again)):
            lost.append(f"{prefix}{field.name}={left!r}")
    return lost


def _is_as_wide(ours: TransformerConfig, again: TransformerConfig) -> bool:
    """Whether gated blocks have the same width, which several numbers may stand for."""
    left, right = ours.dim_feedforward, again.dim_feedforward
    if ours.gating == "none" or not isinstance(left, int) or not isinstance(right, int):
        return False
    return gated_width(ours.dim, left) == gated_width(ours.dim, right)


def feature_extractor_values(config: MimiConfig) -> dict[str, Any]:
    """Makes `preprocessor_config.json`: how the codec wants its audio."""
    return {
        "chunk_length_s": None,
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": config.channels,
        "overlap": None,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": config.sample_rate,
    }


def write_generation_config(lm_gen_config: Mapping[str, Any], codebooks: int) -> dict[str, Any]:
    """Makes `generation_config.json` for arguments of LMGen; {} for none.

    Args:
        codebooks: that the depth transformer generates. Transformers reads its number of steps from here.

    Raises:
        ConfigError: an argument that the format has no name for.
    """
    given = dict(lm_gen_config)
    if not given:
        return {}
    text = {theirs: given.pop(ours) for ours, theirs in _TEXT_SETTINGS.items() if ours in given}
    audio = {theirs: given.pop(ours) for ours, theirs in _AUDIO_SETTINGS.items() if ours in given}
    sampling = given.pop("use_sampling", True)
    if given:
        raise ConfigError(
            f"lm_gen_config: {', '.join(sorted(given))} cannot be held by the format of Transformers"
        )
    steps = {"min_length": codebooks + 1, "max_length": codebooks + 1, "cache_implementation": "static"}
    return text | {"do_sample": sampling, "depth_decoder_config": audio | {"do_sample": sampling} | steps}


def read_generation_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of LMGen for a `generation_config.json`; what says nothing about the choice is left out."""
    audio = cast("dict[str, Any]", values.get("depth_decoder_config") or {})
    given = {ours: audio.get(theirs) for ours, theirs in _AUDIO_SETTINGS.items()}
    given |= {ours: values.get(theirs) for ours, theirs in _TEXT_SETTINGS.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if values.get("do_sample") is False:
        given["use_sampling"] = False
    return given
