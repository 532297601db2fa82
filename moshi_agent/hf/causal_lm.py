"""The temporal transformer by itself, as a language model of text: `MoshiModel` and `MoshiForCausalLM`."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import torch
from torch import Tensor, nn

from moshi_agent.checkpoint.format import CheckpointFiles
from moshi_agent.checkpoint.models import build_lm, fill_lm
from moshi_agent.checkpoint.tensors import Stored
from moshi_agent.checkpoint.transformers.config import read_moshi_config
from moshi_agent.checkpoint.transformers.names import text_pairings, to_theirs
from moshi_agent.config import MoshiConfig as LMConfig
from moshi_agent.errors import InputError
from moshi_agent.hf.cache import MoshiCache
from moshi_agent.hf.config_base import PretrainedConfig
from moshi_agent.hf.decoding import Wanted, decode
from moshi_agent.hf.generation_config import GenerationConfig
from moshi_agent.hf.losses import Alignment, text_loss
from moshi_agent.hf.moshi_config import MoshiConfig
from moshi_agent.hf.outputs import (
    BaseModelOutputWithPast,
    GenerateDecoderOnlyOutput,
    MoshiCausalLMOutputWithPast,
)
from moshi_agent.hf.pretrained import PreTrainedModel
from moshi_agent.hf.sources import refuse_references
from moshi_agent.hf.text_generation import generate_text
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.embedding import TokenEmbedding

_TEXT_PARTS = ("text_emb.", "transformer.", "out_norm.", "text_linear.")


class _TextModel(PreTrainedModel):
    """What both share: the text stream of a language model."""

    config_class = MoshiConfig
    config: MoshiConfig
    prefix = ""  # of the names in the format of Transformers
    has_head = True

    def __init__(self, config: MoshiConfig, lm: LMModel | None = None) -> None:
        super().__init__(config)
        if lm is None:
            lm = LMModel(_text_only(read_moshi_config(config.to_dict()))).eval()
            lm.init_weights()
        if not self.has_head and hasattr(lm, "text_linear"):
            del lm.text_linear
        self.lm = lm
        self.generation_config = GenerationConfig()

    @classmethod
    def read(cls, config: PretrainedConfig, files: CheckpointFiles, dtype: torch.dtype) -> Self:
        """From a whole model's checkpoint, or one of the text part alone."""
        assert isinstance(config, MoshiConfig)
        whole = read_moshi_config(config.to_dict())
        refuse_references(whole, files)
        with torch.device("meta"):
            lm = LMModel(_text_only(whole))
        if not cls.has_head:
            del lm.text_linear
        names = set(lm.state_dict())
        if files.lora_weights is None:
            stored = files.read_lm(only=names)
        else:
            tuned = build_lm(whole, files.read_lm(), dtype=dtype, lora_path=files.lora_weights).state_dict()
            stored = Stored(files.lora_weights, {name: tuned[name] for name in names})
        return cls(config, fill_lm(lm, stored, "cpu", dtype))

    def theirs(self) -> dict[str, Tensor]:
        tensors = {name: one for name, one in self.lm.state_dict().items() if name.startswith(_TEXT_PARTS)}
        pairings = text_pairings(read_moshi_config(self.config.to_dict()), set(tensors), self.prefix)
        return to_theirs(pairings, tensors)

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.text_emb

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes layers in the backward pass rather than keep them."""
        self.lm.transformer.checkpointing = True

    def embed_text(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """[B, T] or [B, T, hidden_size], exactly one of them -> [B, T, hidden_size]."""
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("either input_ids or inputs_embeds is needed, and not both")
        if inputs_embeds is not None:
            return inputs_embeds
        assert input_ids is not None and isinstance(self.lm.text_emb, TokenEmbedding)
        return self.lm.text_emb(check_tokens("input_ids", input_ids.to(self.device), self.config.vocab_size))

    def wanted(
        self,
        past: MoshiCache | None,
        use_cache: bool | None,
        attention_mask: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> Wanted:
        """What the temporal transformer is to do: the arguments of `forward` that are about it.

        By default there is a cache where it is of use: not in training, nor with rows padded on the right.
        """
        if output_attentions or self.config.output_attentions:
            raise InputError(
                "output_attentions=True; accepted: False, attention weights are never computed apart"
            )
        if use_cache is None and past is None:
            padded = attention_mask is not None and not bool(attention_mask[:, -1].all())
            use_cache = self.config.use_cache and not self.training and not padded
        cache = past if past is not None else MoshiCache() if use_cache else None
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return Wanted(cache=cache, attention_mask=attention_mask, hidden_states=hidden)


class MoshiModel(_TextModel):
    """Reads text tokens: the temporal transformer without an output layer.

    Unlike in transformers 4.57.6, its window (`sliding_window`) holds also where no `attention_mask` is
    given.
    """

    has_head = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: MoshiCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Computes normed hidden states of tokens [B, T] or embeddings [B, T, hidden_size].

        Args:
            attention_mask: [B, past + T], 0 where a row is padded on the left or on the right.
            position_ids, cache_position: accepted, and of no effect: positions follow from what was read
                before.
            past_key_values: what was read before; changed in place. It is the caller's, to copy or exchange:
                so no call is captured as a graph, only the steps of `generate` are.

        Raises:
            InputError: tokens out of range, a mask with a hole, or `output_attentions`.
        """
        embeds = self.embed_text(input_ids, inputs_embeds)
        wanted = self.wanted(
            past_key_values, use_cache, attention_mask, output_attentions, output_hidden_states
        )
        decoded = decode(self.lm, embeds, wanted)
        output = BaseModelOutputWithPast(decoded.last_hidden_state, wanted.cache, decoded.hidden_states)
        return output if self.wants_dict(return_dict) else output.to_tuple()


class MoshiForCausalLM(_TextModel):
    """Predicts text alone: the temporal transformer with its output layer, and `MoshiModel`'s window."""

    prefix = "model."
    can_generate = True
    cuda_graphs: GraphDevice | bool = True  # False: `generate` launches every kernel by itself on CUDA, too

    def get_output_embeddings(self) -> nn.Module:
        return self.lm.text_linear

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: MoshiCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        loss_alignment: Alignment = "model",
    ) -> MoshiCausalLMOutputWithPast | tuple[Any, ...]:
        """Tokens [B, T] or embeddings [B, T, hidden_size] -> logits of the next text token. See
        `MoshiModel.forward`.

        Args:
            labels: [B, T], shifted inside, -100 for none; may be `input_ids`. transformers 4.57.6 shifts them
                twice: `loss_alignment="transformers"` computes that.
            logits_to_keep: logits of so many last steps, or of these steps; 0 is all. Not together with
                labels.

        Raises:
            InputError: see `MoshiModel.forward`; labels of another shape or out of range.
        """
        embeds = self.embed_text(input_ids, inputs_embeds)
        if labels is not None and (isinstance(logits_to_keep, Tensor) or logits_to_keep):
            raise InputError("labels need the logits of all steps; accepted: logits_to_keep=0")
        wanted = self.wanted(
            past_key_values, use_cache, attention_mask, output_attentions, output_hidden_states
        )
        decoded = decode(self.lm, embeds, wanted)
        hidden = decoded.last_hidden_state
        steps = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm.text_linear(hidden[:, steps])
        loss = None if labels is None else text_loss(logits, labels, loss_alignment)
        output = MoshiCausalLMOutputWithPast(loss, logits, hidden, wanted.cache, decoded.hidden_states)
        return output if self.wants_dict(return_dict) else output.to_tuple()

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Goes on with text. inputs: [B, T] -> [B, T + new], 20 new tokens unless `max_new_tokens` or
        `max_length` say otherwise.

        Args:
            generation_config: instead of the model's own settings.
            attention_mask: [B, T], 0 where a row is padded on the left.
            kwargs: `do_sample`, `temperature`, `top_k`, `top_p`, `num_return_sequences`, `eos_token_id`,
                `return_dict_in_generate`, `output_logits`, ... as `GenerationConfig` has them.

        Raises:
            InputError: an argument that is not known or not supported.
        """
        tokens = inputs if inputs is not None else input_ids
        if tokens is None or tokens.dim() != 2 or not tokens.shape[1]:
            raise InputError("generate: inputs of shape [B, T], T of at least 1, are needed")
        check_tokens("inputs", tokens, self.config.vocab_size)
        settings = (generation_config or self.generation_config).changed(kwargs)
        output = generate_text(self.lm, tokens.to(self.device), attention_mask, settings, self.cuda_graphs)
        if settings.return_dict_in_generate:
            return output
        assert output.sequences is not None
        return output.sequences


def check_tokens(name: str, tokens: Tensor, card: int) -> Tensor:
    """Raises InputError for tokens above `card`, which is the initial one, or below 0."""
    if not tokens.is_cuda and tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) <= card):
        raise InputError(f"{name} from {int(tokens.min())} to {int(tokens.max())}; accepted: 0 to {card}")
    return tokens


def _text_only(config: LMConfig) -> LMConfig:
    """The same model with a text stream alone."""
    return dataclasses.replace(config, depth=None, delays=(0,), n_q=0, dep_q=0)
