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


def small_mimi(context: int = 12) -> MimiModel:
    """Mimi at the published rates, some channels wide."""
    torch.manual_seed(0)
    config = MimiConfig(
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
    model = MimiModel(config).eval()
    for module in model.modules():
        if isinstance(module, Codebook):
            module.embedding_sum.normal_()
            module.refresh()
    return model


def small_lm(context: int = 8) -> LMModel:
    """Text, two generated and two given codebooks; the acoustic ones a frame later."""
    torch.manual_seed(0)
    layers = {"num_heads": 2, "num_layers": 2, "norm": "rms_norm_f32", "gating": "silu"}
    temporal = TransformerConfig(
        dim=16, dim_feedforward=48, context=context, positional_embedding="rope", **layers
    )
    depth = TransformerConfig(
        dim=16, dim_feedforward=48, positional_embedding="none", weights_per_step=2, **layers
    )
    config = MoshiConfig(
        temporal=temporal,
        depth=DepthConfig(transformer=depth, multi_linear=True),
        delays=(0, 0, 1, 0, 1),
        n_q=4,
        dep_q=2,
        card=32,
        text_card=40,
    )
    model = LMModel(config)
    model.init_weights()
    return model.eval()
