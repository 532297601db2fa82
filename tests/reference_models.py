"""Small random models that take references: as tokens, as rows, or not at all."""

from __future__ import annotations

from dataclasses import replace

import torch

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import (
    ConditionerConfig,
    FuserConfig,
    MoshiConfig,
    ReferenceEncoderConfig,
    ReferenceKind,
)
from moshi_agent.models.lm import LMModel
from tests.small_models import small_lm_config, small_mimi
from tests.text_tokenizers import shipped_tokenizer

REFERENCE_TOKEN = 399  # asks for a reference; a piece of the shipped tokenizer
PIECES = 800  # of that tokenizer
ROW_DIM = 8  # of an encoder's rows

_NAME = "reference_with_time"


def reference_config(kind: ReferenceKind | None, context: int = 8) -> MoshiConfig:
    config = replace(small_lm_config(context), text_card=PIECES, reference_token_id=REFERENCE_TOKEN)
    if kind != "rows":
        return config
    encoder = ReferenceEncoderConfig(row_dim=ROW_DIM)
    conditioner = ConditionerConfig(name=_NAME, kind="multi_arc_encoder", dim=ROW_DIM, encoder=encoder)
    return replace(config, conditioners=(conditioner,), fuser=FuserConfig(streaming_sum=(_NAME,)))


def reference_lm(kind: ReferenceKind | None, context: int = 8) -> LMModel:
    """Random weights; the table of tokens as those that the training of `tiny` begins with."""
    torch.manual_seed(0)
    model = LMModel(reference_config(kind, context))
    if kind == "tokens":
        model.add_references()
    model.init_weights()
    return model.eval()


def reference_checkpoint(kind: ReferenceKind | None, context: int = 8) -> Checkpoint:
    """Packed, so that a row does not depend on how many there are."""
    mimi, lm = small_mimi(), reference_lm(kind, context)
    mimi.pack("float32")
    lm.pack("float32")
    return Checkpoint(
        name=f"references as {kind}",
        mimi=mimi,
        mimi_config=mimi.config,
        lm=lm,
        config=lm.config,
        tokenizer=shipped_tokenizer(),
    )
