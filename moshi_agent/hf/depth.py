"""The depth transformer by itself: `MoshiDepthDecoder`."""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
from torch import Tensor

from moshi_agent.checkpoint.format import CheckpointFiles
from moshi_agent.checkpoint.transformers.config import read_moshi_config
from moshi_agent.checkpoint.transformers.names import moshi_pairings, to_theirs
from moshi_agent.config import MoshiConfig as LMConfig
from moshi_agent.config import TransformerConfig
from moshi_agent.errors import ConfigError, InputError
from moshi_agent.hf.config_base import PretrainedConfig
from moshi_agent.hf.losses import IGNORED, cross_entropy
from moshi_agent.hf.moshi_config import MoshiDepthConfig
from moshi_agent.hf.outputs import MoshiDepthOutput
from moshi_agent.hf.pretrained import PreTrainedModel
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.embedding import ZERO_TOKEN

_TEMPORAL_PARTS = ("text_emb", "emb", "transformer", "out_norm", "text_linear", "extra_heads")


class MoshiDepthDecoder(PreTrainedModel):
    """Generates over codebooks rather than over time: from a step's text token to its codes."""

    config_class = MoshiDepthConfig
    config: MoshiDepthConfig

    def __init__(self, config: MoshiDepthConfig, lm: LMModel | None = None) -> None:
        super().__init__(config)
        self.lm = _depth_alone(config) if lm is None else lm

    @classmethod
    def read(cls, config: PretrainedConfig, files: CheckpointFiles, dtype: torch.dtype) -> Self:
        raise ConfigError("a depth decoder has no checkpoint of its own; use MoshiForConditionalGeneration")

    def theirs(self) -> dict[str, Tensor]:
        tensors = self.lm.state_dict()
        pairings = [one for one in moshi_pairings(self.lm.config) if set(one.ours) <= set(tensors)]
        theirs = to_theirs(pairings, tensors)
        prefix = "depth_decoder."
        return {name.removeprefix(prefix): one for name, one in theirs.items() if name.startswith(prefix)}

    def forward(
        self,
        input_ids: Tensor,
        last_hidden_state: Tensor,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MoshiDepthOutput | tuple[Tensor, ...]:
        """Logits of every codebook of N steps, the ones before it known.

        Args:
            input_ids: [N, num_codebooks], the text token and all codes but the last.
            last_hidden_state: [N, 1, input_size] of the temporal transformer.
            labels: [N, num_codebooks] codes, where the initial token and -100 count as none.

        Raises:
            InputError: another number of codebooks, or labels out of range.
        """
        if input_ids.dim() != 2 or input_ids.shape[1] != self.config.num_codebooks:
            accepted = f"[N, {self.config.num_codebooks}]"
            raise InputError(f"input_ids of shape {list(input_ids.shape)}; accepted: {accepted}")
        tokens = torch.where(input_ids < 0, ZERO_TOKEN, input_ids)
        # The last codebook is never read.
        tokens = torch.cat([tokens, tokens[:, -1:]], dim=1)[:, :, None]
        logits = self.lm.depth_logits(last_hidden_state.to(self.lm.dtype), tokens)[:, :, 0]
        loss = None
        if labels is not None:
            wanted = labels.masked_fill(labels == self.config.audio_vocab_size, IGNORED)
            loss = cross_entropy(logits.float().flatten(0, 1), wanted.to(logits.device).flatten())
        output = MoshiDepthOutput(loss, logits)
        return output if self.wants_dict(return_dict) else output.to_tuple()


def _depth_alone(config: MoshiDepthConfig) -> LMModel:
    """A language model of which only the depth transformer is left."""
    whole = read_moshi_config(
        {
            "hidden_size": config.input_size,
            "num_attention_heads": 1,
            "vocab_size": config.vocab_size,
            "audio_vocab_size": config.audio_vocab_size,
            "num_codebooks": config.num_codebooks,
            "depth_decoder_config": config.to_dict(),
        }
    )
    lm = LMModel(_without_layers(whole))
    for name in _TEMPORAL_PARTS:
        delattr(lm, name)
    lm.init_weights()
    return lm.eval()


def _without_layers(config: LMConfig) -> LMConfig:
    temporal: TransformerConfig = dataclasses.replace(config.temporal, num_layers=0)
    return dataclasses.replace(config, temporal=temporal)
