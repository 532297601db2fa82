"""Small random models for the tests: real structure, a fraction of the width."""

from __future__ import annotations

import torch

from moshi_agent.config import (
    DepthConfig,
    MimiConfig,
    MoshiConfig,
    QuantizerConfig,
    SEANetConfig,
    TransformerConfig,
)
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.quantizer import Codebook


def small_mimi_config(context: int = 12) -> MimiConfig:
    """The published rates, some channels wide."""
    return MimiConfig(
        seanet=SEANetConfig(n_filters=4, dimension=16),
        transformer=TransformerConfig(
            dim=16,
            num_heads=2,
            num_layers=1,
            dim_feedforward=32,
            layer_scale=0.5,
            context=context,
            positional_embedding="rope",
        ),
        quantizer=QuantizerConfig(dimension=8, n_q=4, bins=32, input_dimension=16, output_dimension=16),
    )


def small_mimi(context: int = 12) -> MimiModel:
    """A codec that gives varied codes."""
    torch.manual_seed(0)
    model = MimiModel(small_mimi_config(context)).eval()
    for module in model.modules():
        if isinstance(module, Codebook):
            module.embedding_sum.normal_()
            module.refresh()
    return model


def small_lm_config(context: int = 8) -> MoshiConfig:
    """Text, two generated and two given codebooks; the acoustic ones a frame later."""
    layers = {"num_heads": 2, "num_layers": 2, "norm": "rms_norm_f32", "gating": "silu"}
    temporal = TransformerConfig(
        dim=16, dim_feedforward=48, context=context, positional_embedding="rope", **layers
    )
    depth = TransformerConfig(
        dim=16, dim_feedforward=48, positional_embedding="none", weights_per_step=2, **layers
    )
    return MoshiConfig(
        temporal=temporal,
        depth=DepthConfig(transformer=depth, multi_linear=True),
        delays=(0, 0, 1, 0, 1),
        n_q=4,
        dep_q=2,
        card=32,
        text_card=40,
    )


def small_lm(context: int = 8) -> LMModel:
    """A language model with random weights."""
    torch.manual_seed(0)
    model = LMModel(small_lm_config(context))
    model.init_weights()
    return model.eval()
