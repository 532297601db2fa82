"""`MimiConfig` as Transformers has it: the names and defaults of its `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

from moshi_agent.errors import ConfigError
from moshi_agent.hf.config_base import PretrainedConfig, open_config


def _published_ratios() -> list[int]:
    return [8, 6, 5, 4]


@open_config
class MimiConfig(PretrainedConfig):
    """Describes the codec. Defaults are those of `kyutai/mimi`.

    Values that our codec cannot have (another activation, biases in the attention, ...) are refused with a
    ConfigError when a model is made of them.

    Raises:
        ConfigError: as many semantic codebooks as there are codebooks.
    """

    model_type: ClassVar[str] = "mimi"
    nested_as: ClassVar[str] = "audio_encoder_config"
    renamed: ClassVar[Mapping[str, str]] = {"torch_dtype": "dtype", "_frame_rate": "frame_rate"}

    sampling_rate: int = 24_000
    frame_rate: float | None = None  # frames of codes a second; by default what the strides make
    audio_channels: int = 1
    hidden_size: int = 512
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: list[int] | None = field(default_factory=_published_ratios)
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "constant"
    compress: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 2048
    codebook_dim: int | None = 256
    num_quantizers: int = 32
    use_conv_shortcut: bool = False
    vector_quantization_hidden_dimension: int = 256
    num_semantic_quantizers: int = 1
    upsample_groups: int = 512
    num_hidden_layers: int = 8
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int | None = None
    hidden_act: str = "gelu"
    max_position_embeddings: int = 8000
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    use_cache: bool = False
    use_streaming: bool = False
    rope_theta: float = 10_000.0
    sliding_window: int = 250
    attention_dropout: float = 0.0
    layer_scale_initial_scale: float = 0.01
    attention_bias: bool = False

    def __post_init__(self) -> None:
        self.upsampling_ratios = self.upsampling_ratios or _published_ratios()
        self.codebook_dim = self.hidden_size if self.codebook_dim is None else self.codebook_dim
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.num_semantic_quantizers >= self.num_quantizers:
            raise ConfigError(
                f"num_semantic_quantizers={self.num_semantic_quantizers}; "
                f"accepted: less than num_quantizers={self.num_quantizers}"
            )
        if self.frame_rate is None:
            self.frame_rate = self.sampling_rate / self.frame_size

    @property
    def encodec_frame_rate(self) -> int:
        """Returns the encoder's steps a second, before the codec halves them."""
        return math.ceil(self.sampling_rate / math.prod(self.upsampling_ratios or ()))

    @property
    def num_codebooks(self) -> int:
        return self.num_quantizers

    @property
    def frame_size(self) -> int:
        """Returns the samples in one frame."""
        return 2 * math.prod(self.upsampling_ratios or ())
