"""Lets the model in training answer a user it was not trained on, as sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.models.lm import LMModel
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.nn.conditioners import ConditionAttributes, ConditionTensors
from moshi_agent.text.pieces import text_of
from moshi_agent.training.stereo.dataset import Batch


@dataclass(frozen=True)
class Reply:
    """Holds a conversation of two."""

    sound: NDArray[np.float32] = field(repr=False)  # [N, 2] the model on the left, the user on the right
    sample_rate_hz: int
    text: str  # of the model


@torch.no_grad()
def sample_reply(
    checkpoint: Checkpoint, lm: LMModel, batch: Batch, row: int, frames: int, *, dtype: torch.dtype, seed: int
) -> Reply:
    """Has the model reply to the user of one crop, from the crop's beginning.

    Args:
        checkpoint: for its codec, tokenizer and advice on sampling.
        lm: the model, in evaluation mode.
        frames: at most; the crop may have fewer.
        dtype: of the products.
    """
    frames = min(frames, int(batch.valid_frames[row]))
    user = batch.codes[row : row + 1, 1 + lm.dep_q :, :frames].to(lm.device)
    conditions = [batch.text_conditions[row]]
    given = None if batch.references is None else batch.references[row : row + 1, :frames].to(lm.device)
    tokens = converse(lm, user, conditions, checkpoint.lm_gen_config, given, dtype=dtype, seed=seed)
    mimi = checkpoint.mimi
    sides = torch.cat([tokens[:, 1 : 1 + mimi.num_codebooks], user[..., : tokens.shape[-1]]])
    sound = mimi.decode(sides.clamp(0, mimi.cardinality - 1))[:, 0].float().cpu().numpy()
    text = text_of(checkpoint.tokenizer, tokens[0, 0].tolist())
    return Reply(np.ascontiguousarray(sound.T), int(mimi.sample_rate), text)


@torch.no_grad()
def converse(
    lm: LMModel,
    user: Tensor,
    conditions: Sequence[Mapping[str, str] | None],
    advice: Mapping[str, Any],
    references: Tensor | None = None,
    *,
    dtype: torch.dtype,
    seed: int,
) -> Tensor:
    """Lets the model hear codes, [B, K, frames], and returns its tokens, [B, 1 + dep_q, frames - delay].

    Args:
        conditions: of each row.
        advice: on sampling.
        references: [B, frames], for a model that has a stream of them.
        dtype: of the products.
    """
    lower = dtype != torch.float32
    with torch.autocast(lm.device.type, dtype if lower else torch.bfloat16, enabled=lower):
        heard = user.split(1, dim=2)
        given = [None] * len(heard) if references is None else references.unbind(1)
        generator = LMGen(lm, condition_tensors=_conditions(lm, conditions), seed=seed, **advice)
        with generator.streaming(len(user)):
            steps = [generator.step(frame, references=one) for frame, one in zip(heard, given, strict=True)]
    return torch.cat([tokens for tokens in steps if tokens is not None], dim=-1)


def _conditions(lm: LMModel, given: Sequence[Mapping[str, str] | None]) -> ConditionTensors | None:
    if lm.condition_provider is None:
        return None
    names = lm.condition_provider.whole
    texts = [{name: (row or {}).get(name) for name in names} for row in given]
    return lm.condition_provider.prepare_and_provide([ConditionAttributes(text=text) for text in texts])
