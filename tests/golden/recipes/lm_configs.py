"""Language models to compare, as `config.json` of Kyutai's checkpoints says them.

Every key matters in at least one of them.
"""

from __future__ import annotations

from typing import Any

_DEPTH_SILU = {
    "depformer_dim": 16,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_multi_linear": True,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "depformer_causal": True,
    "depformer_context": 4,
    "depformer_max_period": 10_000,
    "depformer_layer_scale": None,
}
_MOSHI: dict[str, Any] = {
    "dim": 32,
    "text_card": 48,
    "existing_text_padding_id": 3,
    "n_q": 8,
    "dep_q": 4,
    "card": 24,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 16,
    "max_period": 10_000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "delays": [0, 0, 1, 1, 1, 0, 1, 1, 1],
    "depformer_dim_feedforward": 66,
    **_DEPTH_SILU,
}
_SMALL: dict[str, Any] = _MOSHI | {
    "dim": 16,
    "num_heads": 2,
    "text_card": 20,
    "n_q": 4,
    "dep_q": 2,
    "card": 12,
    "delays": [0, 0, 1, 0, 1],
    "context": 8,
    "depformer_dim": 12,
    "depformer_num_layers": 1,
}
_CONDITIONS: dict[str, Any] = {
    "conditioners": {
        "description": {
            "type": "lut",
            "lut": {
                "n_bins": 6,
                "dim": 5,
                "tokenizer": "noop",
                "possible_values": ["very_bad", "bad", "good"],
            },
        },
        "speaker": {"type": "tensor", "tensor": {"dim": 7}},
    },
    "fuser": {
        "sum": ["description"],
        "cross": ["speaker"],
        "prepend": [],
        "cross_attention_pos_emb": False,
        "cross_attention_pos_emb_scale": 1,
    },
    "cross_attention": True,
}
_HASHED: dict[str, Any] = {
    "conditioners": {
        "genre": {"type": "lut", "lut": {"n_bins": 9, "dim": 16, "tokenizer": "noop", "init_scale": 0.5}},
        "mood": {
            "type": "lut",
            "lut": {
                "n_bins": 9,
                "dim": 16,
                "tokenizer": "noop",
                "force_linear": False,
                "learn_padding": False,
            },
        },
        "speaker": {"type": "tensor", "tensor": {"dim": 7}},
        "style": {"type": "tensor", "tensor": {"dim": 3, "learn_padding": False}},
    },
    "fuser": {
        "sum": ["genre", "mood"],
        "cross": ["style", "speaker"],
        "prepend": [],
        "cross_attention_pos_emb": True,
        "cross_attention_pos_emb_scale": 0.5,
    },
    "cross_attention": True,
}

# The five kinds that also generate. Their files carry the published tensor names.
GENERATING: dict[str, dict[str, Any]] = {
    "moshi": _MOSHI,
    "hibiki": _MOSHI
    | {
        "delays": [0, 0, 2, 2, 2, 0, 3, 3, 3],
        "depformer_weights_per_step_schedule": [0, 1, 2, 2],
        "depformer_low_rank_embeddings": 6,
        "depformer_num_layers": 1,
        **_CONDITIONS,
    },
    "stt": _MOSHI
    | {
        "dep_q": 0,
        "delays": [0] * 9,
        "extra_heads_num_heads": 3,
        "extra_heads_dim": 6,
        "max_period": 100_000.0,
        "conditioners": {},
        "cross_attention": False,
        "fuser": {
            "cross_attention_pos_emb": False,
            "cross_attention_pos_emb_scale": 1,
            "sum": [],
            "prepend": [],
            "cross": [],
        },
    },
    "personaplex": _MOSHI
    | {
        "n_q": 16,
        "dep_q": 16,
        "delays": [0, 0, *[1] * 7, 0, *[1] * 7],
        "depformer_num_layers": 1,
        "card": 20,
    },
    # The depth transformer inherits kv_repeat.
    "grouped_query": _MOSHI
    | {
        "kv_repeat": 2,
        "n_q": 4,
        "dep_q": 2,
        "delays": [0, 0, 1, 0, 1],
        "text_card": 40,
        "depformer_norm": "rms_norm_f32",
    },
}

# Forward only.
OTHERS: dict[str, dict[str, Any]] = {
    "two_text_streams": _SMALL
    | {
        "demux_second_stream": True,
        "text_card_out": 5,
        "depformer_low_rank_embeddings": 4,
        "existing_text_end_padding_id": 1,
    },
    "embedding_norms": _SMALL
    | {
        "norm_emb": True,
        "bias_proj": True,
        "layer_scale": 0.01,
        "norm": "rms_norm",
        "depformer_norm": "rms_norm_f32",
        "depformer_dim_feedforward": [30, 50],
        "depformer_low_rank_embeddings": 4,
        "depformer_layer_scale": 0.02,
    },
    "plain_feed_forward": {
        key: value
        for key, value in _SMALL.items()
        if key not in ("depformer_multi_linear", "depformer_weights_per_step", "depformer_layer_scale")
    }
    | {
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "sin",
        "hidden_scale": 3,
        "depformer_gating": "none",
        "depformer_pos_emb": "sin",
        "layer_scale": 0.1,
        "depformer_norm": "layer_norm",
    },
    "sin_rope": _SMALL
    | {
        "positional_embedding": "sin_rope",
        "positional_scale": 0.5,
        "max_period": 300,
        "norm": "layer_norm_f32",
        "gating": "gelu",
        "depformer_gating": "mish",
        "depformer_pos_emb": "rope",
        "depformer_max_period": 50,
    },
    "rope_concat": _SMALL
    | {
        "positional_embedding": "rope_concat",
        "norm": "rms_norm",
        "kv_repeat": 2,
        "depformer_kv_repeat": 1,
        "hidden_scale": 4,
        "depformer_dim_feedforward": None,
        "gating": "relu",
        "depformer_pos_emb": "sin_rope",
    },
    "no_positions": _SMALL
    | {"positional_embedding": "none", "delays": [2, 0, 1, 0, 3], "depformer_norm": "layer_norm_f32"},
    "hashed_conditions": _SMALL | _HASHED | {"layer_scale": 0.5, "gating": "tanh"},
}
# Norms differ in the epsilon below which they no longer scale up: each gets input as faint as its epsilon.
_TINY = _SMALL | {
    "num_layers": 1,
    "n_q": 2,
    "dep_q": 2,
    "delays": [0, 0, 1],
    "depformer_dim_feedforward": 24,
    "hidden_scale": 2,
}
FAINT: dict[str, dict[str, Any]] = {
    f"faint_{norm}": _TINY | {"norm": norm}
    for norm in ("rms_norm", "rms_norm_f32", "layer_norm", "layer_norm_f32")
}
FAINTNESS = {"rms_norm": 3e-3, "layer_norm": 3e-3, "rms_norm_f32": 1e-4, "layer_norm_f32": 1e-4}


def published_attention_names(config: dict[str, Any]) -> bool:
    """Whether the file of this case uses the stacked names, `in_proj_weight`, of Moshi's published files."""
    return "depformer_low_rank_embeddings" not in config


def translation_config() -> dict[str, Any]:
    """A small Hibiki, with every key of the released `config.json`."""
    grades = ["very_bad", "bad", "neutral", "good", "very_good"]
    description = {"n_bins": 31, "dim": 16, "tokenizer": "noop", "possible_values": grades}
    fuser = {"cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1, "sum": ["description"]}
    return _MOSHI | {
        "delays": [0, 0, 2, 2, 2, 0, 2, 2, 2],
        "cross_attention": False,
        "depformer_dim_feedforward": None,
        "conditioners": {"description": {"type": "lut", "lut": description}},
        "fuser": fuser | {"prepend": [], "cross": []},
        "model_type": "hibiki",
        "lm_gen_config": {
            "use_sampling": False,
            "temp": 0.8,
            "temp_text": 0.4,
            "top_k": 250,
            "top_k_text": 25,
        },
    }
