"""Reads and writes the `config.json` of Kyutai's checkpoints.

That file is one flat dictionary: keys of the temporal transformer stand bare, those of the depth
transformer begin with `depformer_`, and what the depth transformer does not say it inherits.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from moshi_agent.config import (
    ConditionerConfig,
    DepthConfig,
    FuserConfig,
    LoraConfig,
    MoshiConfig,
    ReferenceEncoderConfig,
    TransformerConfig,
    refuse_unknown_keys,
)
from moshi_agent.errors import ConfigError

# Keys that say where files are and how a model is used; the checkpoint reads them, not the model.
CHECKPOINT_KEYS = (
    "moshi_name",
    "mimi_name",
    "mimi_config_name",
    "tokenizer_name",
    "lora_name",
    "model_type",
    "lm_gen_config",
    "tts_config",
    "stt_config",
    "model_id",
    "version",  # NVIDIA's
)

# Notes of people and of other tools, which say nothing about the model: passed over. So are names with a
# leading underscore.
NOTES = (
    "base_model",
    "dataset",
    "datasets",
    "description",
    "dtype",
    "language",
    "library_name",
    "license",
    "name",
    "pipeline_tag",
    "tags",
    "torch_dtype",
    "transformers_version",
)

_DEPTH = "depformer_"
# Shared by both transformers; the depth transformer inherits what it does not set.
_LAYER_KEYS = {
    "num_heads": 8,
    "num_layers": 0,
    "gating": "none",
    "layer_scale": None,
    "max_period": 10_000.0,
    "positional_scale": 1.0,
    "kv_repeat": 1,
}
_MODEL_KEYS: dict[str, Any] = {
    "n_q": 8,
    "dep_q": 8,
    "card": 1024,
    "text_card": 32_000,
    "text_card_out": None,
    "demux_second_stream": False,
    "norm_emb": False,
    "bias_proj": False,
    "extra_heads_num_heads": 0,
    "extra_heads_dim": 6,
    "quantize": False,
}
_RENAMED_KEYS = {
    "existing_text_padding_id": "text_padding_id",
    "existing_text_end_padding_id": "text_end_padding_id",
}
_TEMPORAL_KEYS = ("dim", "hidden_scale", "norm", "context", "positional_embedding", "cross_attention")
_DEPTH_KEYS = (
    "dim",
    "dim_feedforward",
    "multi_linear",
    "weights_per_step",
    "weights_per_step_schedule",
    "low_rank_embeddings",
    "pos_emb",
    "norm",
)
# Said by published files, of no effect on the model: one accepted value, or any.
_IGNORED_KEYS = ("depformer_context", "depformer_causal", "gradient_checkpointing", "cache_cross_attention")
_OTHER_KEYS = (
    "delays",
    "causal",
    "conditioners",
    "fuser",
    "lora",
    "lora_rank",
    "lora_scaling",
    "rag_token_id",
)

_FUSED = ("sum", "cross", "prepend", "streaming_sum")
# Of the encoder of references; the others say how it was trained.
_REFERENCE_KEYS = (
    "embedder_params",
    "bridge_module",
    "hf_repo",
    "tokenizer_name",
    "learn_padding",
    "force_linear",
    "pad_empty",
)
_REFERENCE_TRAINING_KEYS = (
    "autocast_dtype",
    "device",
    "finetune",
    "frame_rate",
    "output_bias",
    "output_dim",
    "rag_time_sampling_params",
    "ref_dropout",
)

# The model of `kyutai/moshiko-pytorch-bf16`, whose repository has no config.json.
MOSHI_7B: dict[str, Any] = {
    "dim": 4096,
    "text_card": 32_000,
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "card": 2048,
    "num_heads": 32,
    "num_layers": 32,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 3000,
    "max_period": 10_000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 1024,
    "depformer_dim_feedforward": 4224,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_multi_linear": True,
    "depformer_max_period": 10_000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}


@contextmanager
def naming_config(where: str) -> Generator[None]:
    """Raises what is wrong in a configuration as a ConfigError that names `where` it stands."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (
        TypeError,
        AttributeError,
        KeyError,
        ValueError,
        ArithmeticError,
    ) as error:  # a number where a list is needed, and the like
        raise ConfigError(f"{where}: a value of the wrong kind ({error})") from error


def accepted_keys() -> list[str]:
    """Returns every key that a `config.json` may hold."""
    depth = [_DEPTH + key for key in (*_DEPTH_KEYS, *_LAYER_KEYS)]
    plain = [*_MODEL_KEYS, *_RENAMED_KEYS, *_TEMPORAL_KEYS, *_LAYER_KEYS, *_IGNORED_KEYS, *_OTHER_KEYS]
    return sorted({*plain, *depth, *CHECKPOINT_KEYS})


def read_moshi_config(config: Mapping[str, Any] | None) -> MoshiConfig:
    """Reads the configuration in a flat dictionary; None is the original Moshi 7B.

    Raises:
        ConfigError: an unknown key, or a value that is not supported.
    """
    given = dict(MOSHI_7B if config is None else config)
    if "demux_second_text_stream" in given:
        given["demux_second_stream"] = given.pop("demux_second_text_stream")
    refuse_unknown_keys(given, accepted_keys(), "config.json")
    if not given.get("causal", True):
        raise ConfigError("causal=False; only causal models can stream")
    fields = {key: given.get(key, default) for key, default in _MODEL_KEYS.items()}
    fields |= {ours: given[theirs] for theirs, ours in _RENAMED_KEYS.items() if theirs in given}
    fields["reference_token_id"] = given.get("rag_token_id")
    # Nothing becomes as long as a number in the file says before that number has been checked.
    fields["delays"] = tuple(given.get("delays", [0] * (min(fields["n_q"], 2**10) + 1)))
    fields["temporal"] = _read_temporal(given)
    fields["depth"] = _read_depth(given, fields["dep_q"]) if fields["dep_q"] else None
    conditioners: Mapping[str, Any] = given.get("conditioners") or {}
    fields["conditioners"] = tuple(_read_conditioner(name, one) for name, one in conditioners.items())
    fields["fuser"] = _read_fuser(given.get("fuser"))
    if given.get("lora"):
        fields["lora"] = LoraConfig(rank=given.get("lora_rank", 128), scaling=given.get("lora_scaling", 2.0))
    return MoshiConfig(**fields)


def _layer_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given.get(key, default) for key, default in _LAYER_KEYS.items()}


def _read_temporal(given: Mapping[str, Any]) -> TransformerConfig:
    dim = given.get("dim", 128)
    return TransformerConfig(
        dim=dim,
        dim_feedforward=int(given.get("hidden_scale", 4) * dim),
        norm=given.get("norm", "layer_norm"),
        context=given.get("context"),
        positional_embedding=given.get("positional_embedding", "sin"),
        cross_attention=given.get("cross_attention", False),
        **_layer_keys(given),
    )


def _read_depth(given: Mapping[str, Any], dep_q: int) -> DepthConfig:
    own = {key.removeprefix(_DEPTH): value for key, value in given.items() if key.startswith(_DEPTH)}
    dim = own.get("dim", 256)
    feedforward = own.get("dim_feedforward") or int(given.get("hidden_scale", 4) * dim)
    schedule = own.get("weights_per_step_schedule")
    transformer = TransformerConfig(
        dim=dim,
        dim_feedforward=tuple(feedforward) if isinstance(feedforward, list) else feedforward,
        norm=given.get("norm", "layer_norm"),
        positional_embedding=own.get("pos_emb", "sin"),
        weights_per_step=dep_q if own.get("weights_per_step") else 0,
        weights_per_step_schedule=tuple(schedule) if schedule else None,
        **(_layer_keys(given) | {key: own[key] for key in _LAYER_KEYS if key in own}),
    )
    return DepthConfig(
        transformer=transformer,
        multi_linear=own.get("multi_linear", False),
        low_rank_embeddings=own.get("low_rank_embeddings"),
        norm=own.get("norm"),
    )


def _read_conditioner(name: str, config: Mapping[str, Any]) -> ConditionerConfig:
    kind = config["type"]
    values = dict(config.get(kind, {}))
    if kind == "multi_arc_encoder":
        return _read_reference_conditioner(name, kind, values)
    if values.pop("tokenizer", "noop") != "noop":
        raise ConfigError(f"conditioner {name!r}: the only known tokenizer is 'noop'")
    accepted = (
        "dim",
        "n_bins",
        "possible_values",
        "init_scale",
        "force_linear",
        "pad_empty",
        "learn_padding",
    )
    # Filled in by Kyutai's loader while it runs, and so found in files written from its dictionaries.
    values = {
        key: value for key, value in values.items() if key not in ("output_dim", "device", "output_bias")
    }
    refuse_unknown_keys(values, accepted, f"conditioner {name!r}")
    possible = values.pop("possible_values", None)
    return ConditionerConfig(
        name=name, kind=kind, possible_values=tuple(possible) if possible else None, **values
    )


def _read_reference_conditioner(name: str, kind: Any, values: dict[str, Any]) -> ConditionerConfig:
    """Reads what MoshiRAG says of its encoder of references."""
    where = f"conditioner {name!r}"
    refuse_unknown_keys(values, (*_REFERENCE_KEYS, *_REFERENCE_TRAINING_KEYS), where)
    embedder, bridge = dict(values["embedder_params"]), dict(values["bridge_module"])
    refuse_unknown_keys(embedder, ("compress_rates",), f"{where}, embedder_params")
    refuse_unknown_keys(bridge, ("in_dim", "hidden_dim", "out_dim"), f"{where}, bridge_module")
    rates = embedder["compress_rates"]
    if len(rates) != 1 or rates[0] >= -1:
        raise ConfigError(f"{where}: compress_rates={rates}; accepted: one number of tokens, below -1")
    published, row_dim = ReferenceEncoderConfig(), bridge["out_dim"]
    encoder = ReferenceEncoderConfig(
        dim=bridge["in_dim"],
        bridge_dim=bridge.get("hidden_dim") or row_dim,
        row_dim=row_dim,
        tokens_per_row=-rates[0],
        source=values.get("hf_repo") or published.source,
        tokenizer=values.get("tokenizer_name") or published.tokenizer,
    )
    said = {key: values[key] for key in ("force_linear", "learn_padding", "pad_empty") if key in values}
    return ConditionerConfig(name=name, kind=kind, dim=row_dim, encoder=encoder, **said)


def _read_fuser(config: Mapping[str, Any] | None) -> FuserConfig | None:
    if config is None:
        return None
    values = dict(config)
    accepted = (*_FUSED, "cross_attention_pos_emb", "cross_attention_pos_emb_scale")
    refuse_unknown_keys(values, accepted, "fuser")
    for key in _FUSED:
        values[key] = tuple(values.get(key, ()))
    return FuserConfig(**values)


def write_moshi_config(config: MoshiConfig) -> dict[str, Any]:
    """Makes the flat dictionary that `read_moshi_config` and Kyutai's package read."""
    temporal = config.temporal
    flat: dict[str, Any] = {key: getattr(config, key) for key in _MODEL_KEYS}
    flat |= {theirs: getattr(config, ours) for theirs, ours in _RENAMED_KEYS.items()}
    flat |= {key: getattr(temporal, key) for key in _LAYER_KEYS}
    flat |= {
        "delays": list(config.delays),
        "dim": temporal.dim,
        "hidden_scale": _hidden_scale(temporal),
        "norm": temporal.norm,
        "context": temporal.context,
        "causal": True,
        "positional_embedding": temporal.positional_embedding,
        "cross_attention": temporal.cross_attention,
    }
    if config.depth is not None:
        flat |= {_DEPTH + key: value for key, value in _write_depth(config.depth).items()}
    if config.conditioners:
        flat["conditioners"] = {one.name: _write_conditioner(one) for one in config.conditioners}
    if config.fuser is not None:
        fuser = config.fuser
        flat["fuser"] = {
            "sum": list(fuser.sum),
            "cross": list(fuser.cross),
            "cross_attention_pos_emb": fuser.cross_attention_pos_emb,
            "cross_attention_pos_emb_scale": fuser.cross_attention_pos_emb_scale,
        }
        # Kyutai's package knows these only in MoshiRAG's own version of it.
        later = {"prepend": fuser.prepend, "streaming_sum": fuser.streaming_sum}
        flat["fuser"] |= {key: list(names) for key, names in later.items() if names}
    if config.reference_token_id is not None:
        flat["rag_token_id"] = config.reference_token_id
    if config.lora is not None:
        flat |= {"lora": True, "lora_rank": config.lora.rank, "lora_scaling": config.lora.scaling}
    return flat


def _hidden_scale(temporal: TransformerConfig) -> float:
    assert isinstance(temporal.dim_feedforward, int)
    scale = temporal.dim_feedforward / temporal.dim
    # int(scale * dim) must come back to the same width.
    return scale if int(scale * temporal.dim) == temporal.dim_feedforward else scale + 0.5 / temporal.dim


def _write_depth(depth: DepthConfig) -> dict[str, Any]:
    transformer = depth.transformer
    feedforward, schedule = transformer.dim_feedforward, transformer.weights_per_step_schedule
    return {key: getattr(transformer, key) for key in _LAYER_KEYS} | {
        "dim": transformer.dim,
        "dim_feedforward": list(feedforward) if isinstance(feedforward, tuple) else feedforward,
        "multi_linear": depth.multi_linear,
        "weights_per_step": transformer.weights_per_step > 0,
        "weights_per_step_schedule": list(schedule) if schedule else None,
        "low_rank_embeddings": depth.low_rank_embeddings,
        "pos_emb": transformer.positional_embedding,
        "norm": depth.norm,
    }


def _write_conditioner(config: ConditionerConfig) -> dict[str, Any]:
    if config.encoder is not None:
        return {"type": config.kind, config.kind: _write_encoder(config, config.encoder)}
    values: dict[str, Any] = {
        "dim": config.dim,
        "force_linear": config.force_linear,
        "pad_empty": config.pad_empty,
        "learn_padding": config.learn_padding,
    }
    if config.kind == "lut":
        values |= {"n_bins": config.n_bins, "tokenizer": "noop", "init_scale": config.init_scale}
        values["possible_values"] = list(config.possible_values) if config.possible_values else None
    return {"type": config.kind, config.kind: values}


def _write_encoder(config: ConditionerConfig, encoder: ReferenceEncoderConfig) -> dict[str, Any]:
    return {
        "embedder_params": {"compress_rates": [-encoder.tokens_per_row]},
        "bridge_module": {
            "in_dim": encoder.dim,
            "hidden_dim": encoder.bridge_dim,
            "out_dim": encoder.row_dim,
        },
        "hf_repo": encoder.source,
        "tokenizer_name": encoder.tokenizer,
        "force_linear": config.force_linear,
        "pad_empty": config.pad_empty,
        "learn_padding": config.learn_padding,
    }
