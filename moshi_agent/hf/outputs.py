"""What the models return: by attribute, by key, by index, and as a tuple of what is not None."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moshi_agent.hf.cache import MoshiCache
from moshi_agent.models.mimi import MimiState


class ModelOutput(Mapping[str, Any]):
    """Holds outputs as a mapping and as a tuple, without the fields that are None."""

    def __getitem__(self, key: Any) -> Any:
        return self.to_tuple()[key] if isinstance(key, int | slice) else self._given()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given())

    def __len__(self) -> int:
        return len(self._given())

    def __eq__(self, other: object) -> bool:
        return self is other  # tensors have no single answer to this question

    def __hash__(self) -> int:
        return id(self)

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the fields that are not None, in their order."""
        return tuple(self._given().values())

    def _given(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self)]  # pyright: ignore[reportArgumentType]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(eq=False)
class MimiEncoderOutput(ModelOutput):
    audio_codes: Tensor | None = None  # [B, num_quantizers, frames]
    encoder_past_key_values: MimiState | None = None
    padding_cache: MimiState | None = None


@dataclass(eq=False)
class MimiDecoderOutput(ModelOutput):
    audio_values: Tensor | None = None  # [B, channels, samples]
    decoder_past_key_values: MimiState | None = None


@dataclass(eq=False)
class MimiOutput(ModelOutput):
    audio_codes: Tensor | None = None  # [B, num_quantizers, frames]
    audio_values: Tensor | None = None  # [B, channels, samples]
    encoder_past_key_values: MimiState | None = None
    decoder_past_key_values: MimiState | None = None


@dataclass(eq=False)
class BaseModelOutputWithPast(ModelOutput):
    last_hidden_state: Tensor | None = None  # [B, T, hidden_size]
    past_key_values: MoshiCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None  # what each layer reads, and the last of them normed
    attentions: None = None  # never computed apart


@dataclass(eq=False)
class MoshiCausalLMOutputWithPast(ModelOutput):
    loss: Tensor | None = None  # []
    logits: Tensor | None = None  # [B, T, vocab_size]
    last_hidden_state: Tensor | None = None  # [B, T, hidden_size]
    past_key_values: MoshiCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None


@dataclass(eq=False)
class MoshiDepthOutput(ModelOutput):
    loss: Tensor | None = None  # []
    logits: Tensor | None = None  # [N, num_codebooks, audio_vocab_size]


@dataclass(eq=False)
class MoshiConditionalGenerationOutputWithPast(ModelOutput):
    loss: Tensor | None = None  # [] of the text, plus that of the audio
    logits: Tensor | None = None  # [B, T, vocab_size] of the text
    last_hidden_state: Tensor | None = None  # [B, T, hidden_size]
    past_key_values: MoshiCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None
    depth_loss: Tensor | None = None  # []
    audio_logits: Tensor | None = None  # [N, num_codebooks, audio_vocab_size], N steps of all rows


@dataclass(eq=False)
class MoshiConditionalGenerationGenerateOutput(ModelOutput):
    audio_sequences: Tensor | None = None  # [B, 1, samples] history and reply
    sequences: Tensor | None = None  # [B, T] text tokens, history and reply
    logits: tuple[Tensor, ...] | None = None  # of the text, [B, vocab_size] for each new token
    audio_codes: Tensor | None = None  # [B, num_codebooks, frames] history and reply


@dataclass(eq=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    sequences: Tensor | None = None  # [B, T]
    logits: tuple[Tensor, ...] | None = None  # [B, vocab_size] for each new token


@dataclass(eq=False)
class MoshiUnconditionalInput(ModelOutput):
    input_ids: Tensor | None = None  # [B, 1]
    user_audio_codes: Tensor | None = None  # [B, num_codebooks, 1]
    moshi_audio_codes: Tensor | None = None  # [B, num_codebooks, 1]
    attention_mask: Tensor | None = None  # [B, 1]
