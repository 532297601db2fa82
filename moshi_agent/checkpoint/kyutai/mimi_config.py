"""Reads and writes the dictionary that describes Mimi to Kyutai's loaders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from moshi_agent.checkpoint.kyutai.config import naming_config
from moshi_agent.config import (
    MimiConfig,
    QuantizerConfig,
    SEANetConfig,
    TransformerConfig,
    published_mimi_transformer,
    refuse_unknown_keys,
    require_value,
)


def _field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def read_mimi_config(config: Mapping[str, Any] | None) -> MimiConfig:
    """Reads the dictionary form of Kyutai's loaders; None is the published codec.

    Raises:
        ConfigError: an unknown key, or values that do not fit.
    """
    if config is None:
        return MimiConfig()
    refuse_unknown_keys(config, _field_names(MimiConfig), "mimi config")
    seanet = dict(config.get("seanet", {}))
    refuse_unknown_keys(seanet, _field_names(SEANetConfig), "mimi config, seanet")
    if "ratios" in seanet:
        seanet["ratios"] = tuple(seanet["ratios"])
    quantizer = dict(config.get("quantizer", {}))
    refuse_unknown_keys(quantizer, _field_names(QuantizerConfig), "mimi config, quantizer")
    plain = {key: config[key] for key in ("sample_rate", "channels", "frame_rate") if key in config}
    return MimiConfig(
        seanet=SEANetConfig(**seanet),
        quantizer=QuantizerConfig(**quantizer),
        transformer=_read_transformer(config.get("transformer")),
        **plain,
    )


def read_codec_config(values: Mapping[str, Any] | None, where: str) -> MimiConfig:
    """Reads a configuration like `read_mimi_config`. Raises ConfigError naming `where` it stands."""
    with naming_config(where):
        return read_mimi_config(values)


def write_mimi_config(config: MimiConfig) -> dict[str, Any]:
    """Makes the dictionary form of Kyutai's loaders."""
    transformer = dataclasses.asdict(config.transformer)
    transformer["d_model"] = transformer.pop("dim")
    for key in ("weights_per_step", "weights_per_step_schedule", "cross_attention", "kv_repeat"):
        transformer.pop(key)
    dimension = config.seanet.dimension
    transformer |= {
        "causal": True,
        "conv_layout": True,
        "input_dimension": dimension,
        "output_dimensions": [dimension],
    }
    return {
        "sample_rate": config.sample_rate,
        "channels": config.channels,
        "frame_rate": config.frame_rate,
        "seanet": dataclasses.asdict(config.seanet) | {"ratios": list(config.seanet.ratios)},
        "transformer": transformer,
        "quantizer": dataclasses.asdict(config.quantizer),
    }


def _read_transformer(config: Mapping[str, Any] | None) -> TransformerConfig:
    if config is None:
        return published_mimi_transformer()
    # What the layout of the code fixes and a configuration may only confirm.
    fixed = {"causal": True, "conv_layout": True}
    ends = ("input_dimension", "output_dimensions", "d_model")
    known = [name for name in _field_names(TransformerConfig) if name != "dim"]
    refuse_unknown_keys(config, [*known, *fixed, *ends], "mimi config, transformer")
    for key, value in fixed.items():
        require_value(f"mimi transformer {key}", config.get(key, value), (value,))
    values = {key: value for key, value in config.items() if key in known}
    return TransformerConfig(dim=config["d_model"], **values)
