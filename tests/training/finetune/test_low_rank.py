"""Low-rank updates of a model that is to be trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moshi_agent.config import TransformerConfig
from moshi_agent.errors import ConfigError
from moshi_agent.nn.attention import CrossAttention, CrossSource
from moshi_agent.nn.linear import Int8Linear, Linear, LoraLinear
from moshi_agent.training.finetune.config import LoraSettings
from moshi_agent.training.finetune.low_rank import add_low_rank
from tests.small_models import small_lm

SETTINGS = LoraSettings(enable=True, rank=3, scaling=1.5)


def test_every_linear_layer_gets_one_and_it_changes_nothing_yet() -> None:
    lm = small_lm()
    codes = torch.randint(0, 30, (2, 5, 9))
    layers = [name for name, module in lm.named_modules() if isinstance(module, Linear)]
    with torch.no_grad():
        before = lm(codes)
        add_low_rank(lm, SETTINGS, seed=1)
        after = lm(codes)
    assert [name for name, module in lm.named_modules() if isinstance(module, LoraLinear)] == layers
    assert torch.equal(before.text_logits, after.text_logits)
    # Those of the first and the last frame stand for nothing.
    assert torch.equal(before.logits.nan_to_num(), after.logits.nan_to_num())


def test_only_the_updates_are_trained() -> None:
    lm = small_lm()
    add_low_rank(lm, SETTINGS, seed=1)
    trained = {name for name, weight in lm.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in lm.named_parameters() if ".lora_" in name}


def test_tables_are_trained_too_where_that_is_asked_for() -> None:
    lm = small_lm().bfloat16()
    add_low_rank(lm, LoraSettings(enable=True, rank=3, ft_embed=True), seed=1)
    tables = {f"{name}.weight" for name, module in lm.named_modules() if isinstance(module, nn.Embedding)}
    trained = {name: weight for name, weight in lm.named_parameters() if weight.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == tables
    assert {weight.dtype for weight in trained.values()} == {torch.float32}


def test_a_seed_gives_the_same_updates() -> None:
    models = [small_lm() for _ in range(3)]
    for lm, seed in zip(models, (1, 1, 2), strict=True):
        add_low_rank(lm, SETTINGS, seed)
    first, again, other = (lm.text_linear.lora_A.weight for lm in models)  # pyright: ignore
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_attention_to_conditions_has_an_update_as_well() -> None:
    """It uses parts of its weight."""
    config = TransformerConfig(dim=16, num_heads=2, num_layers=1, dim_feedforward=32, cross_attention=True)
    owner = nn.Module()
    owner.attention = CrossAttention(config)
    add_low_rank(owner, SETTINGS, seed=1)  # pyright: ignore
    layer = owner.attention.in_projs[0]
    nn.init.normal_(layer.lora_B.weight)
    x, source = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    y = owner.attention(x, CrossSource(source))
    fused = CrossAttention(config)
    fused.in_projs[0].weight = nn.Parameter(layer.dense_weight())
    fused.out_projs[0].weight = owner.attention.out_projs[0].weight
    torch.testing.assert_close(y, fused(x, CrossSource(source)))


def test_int8_weights_and_updates_of_updates_are_refused() -> None:
    lm = small_lm()
    add_low_rank(lm, SETTINGS, seed=1)
    with pytest.raises(ConfigError, match="has low-rank updates already"):
        add_low_rank(lm, SETTINGS, seed=1)
    lm = small_lm()
    lm.text_linear = Int8Linear(16, 40)
    with pytest.raises(ConfigError, match="int8 or int4 cannot be fine-tuned"):
        add_low_rank(lm, SETTINGS, seed=1)
