"""`MoshiConfig` and `MoshiDepthConfig` as Transformers has them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from moshi_agent.errors import ConfigError
from moshi_agent.hf.config_base import PretrainedConfig, open_config
from moshi_agent.hf.mimi_config import MimiConfig


@open_config
class MoshiDepthConfig(PretrainedConfig):
    """Describes the depth transformer ("depth decoder"). Raises ConfigError for an odd `ffn_dim`."""

    model_type: ClassVar[str] = "moshi_depth"
    nested_as: ClassVar[str] = "depth_decoder_config"

    vocab_size: int = 32_000
    hidden_size: int = 1024
    input_size: int = 4096
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    audio_vocab_size: int = 2048
    max_position_embeddings: int = 9
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 8
    attention_dropout: float = 0.0
    ffn_dim: int = 5632
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 8
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        _fill_in(self)


@open_config
class MoshiConfig(PretrainedConfig):
    """Describes Moshi: the temporal transformer, with the codec and the depth transformer nested.

    Defaults are those of Moshiko.

    Args:
        audio_encoder_config: a `MimiConfig`, or a dictionary of its values.
        depth_decoder_config: a `MoshiDepthConfig`, or a dictionary; sizes shared with the model are the
            model's.

    Raises:
        ConfigError: an odd `ffn_dim`, or more codebooks than the codec has.
    """

    model_type: ClassVar[str] = "moshi"

    vocab_size: int = 32_000
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    audio_vocab_size: int | None = None
    max_position_embeddings: int = 3000
    rope_theta: float = 10_000.0
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 3000
    attention_dropout: float = 0.0
    ffn_dim: int = 22_528
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 8
    tie_word_embeddings: bool = False
    audio_encoder_config: MimiConfig = None  # pyright: ignore[reportAssignmentType]
    depth_decoder_config: MoshiDepthConfig = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        _fill_in(self)
        self.audio_encoder_config = MimiConfig.from_dict(_values(self.audio_encoder_config))
        if self.num_codebooks > self.audio_encoder_config.num_codebooks:
            raise ConfigError(
                f"num_codebooks={self.num_codebooks}; accepted: "
                f"at most the codec's {self.audio_encoder_config.num_codebooks}"
            )
        if self.audio_vocab_size is None:
            self.audio_vocab_size = self.audio_encoder_config.codebook_size
        self.depth_decoder_config = MoshiDepthConfig.from_dict(
            _values(self.depth_decoder_config),
            audio_vocab_size=self.audio_vocab_size,
            input_size=self.hidden_size,
            vocab_size=self.vocab_size,
            num_codebooks=self.num_codebooks,
        )

    @property
    def sampling_rate(self) -> int:
        return self.audio_encoder_config.sampling_rate

    @classmethod
    def from_audio_encoder_config(cls, audio_encoder_config: PretrainedConfig, **kwargs: Any) -> Self:
        """Makes a configuration around that of a codec."""
        return cls(audio_encoder_config=audio_encoder_config.to_dict(), **kwargs)  # pyright: ignore[reportArgumentType]


def _fill_in(config: MoshiConfig | MoshiDepthConfig) -> None:
    """What follows from other values where it is not said."""
    config.num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
    config.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    if config.ffn_dim % 2:
        raise ConfigError(f"ffn_dim={config.ffn_dim}; accepted: even numbers")


def _values(config: PretrainedConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(config, PretrainedConfig):
        return config.to_dict()
    return copy.deepcopy(dict(config or {}))
