"""What a model is, as frozen dataclasses that refuse values which do not fit together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from moshi_agent.errors import ConfigError

Norm = Literal["layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32"]
PositionalEmbedding = Literal["rope", "rope_concat", "sin", "sin_rope", "none"]
KVCache = Literal["auto", "float", "int8"]
# How a model is given what was found outside of a call: a token of the text in each frame, or a row.
ReferenceKind = Literal["tokens", "rows"]

_NORMS = ("layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32")
_POSITIONAL_EMBEDDINGS = ("rope", "rope_concat", "sin", "sin_rope", "none")
_GATINGS = (
    "none",
    "silu",
    "gelu",
    "relu",
    "sigmoid",
    "tanh",
    "elu",
    "leaky_relu",
    "mish",
    "softsign",
    "identity",
)


def require_value(name: str, value: object, accepted: Iterable[object]) -> None:
    """Raises ConfigError naming the value unless it is among those accepted."""
    if value not in accepted:
        raise ConfigError(f"{name}={value!r}; accepted: {', '.join(map(str, accepted))}")


def require_types(where: object) -> None:
    """Raises ConfigError unless every field of a dataclass holds what its annotation says.

    A whole number will do where a float is wanted; NaN and infinity will not, nor a bool for a number.
    """
    for name, wanted in get_type_hints(type(where)).items():
        value: object = getattr(where, name)
        if not _is_a(value, wanted):
            shown = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
            raise ConfigError(f"{name}={str(value)[:40]!r}; accepted: {shown}")


def _is_a(value: object, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is tuple:
        items = cast("tuple[object, ...]", value)
        return isinstance(value, tuple) and all(_is_a(item, parts[0]) for item in items)
    if wanted in (int, float):
        if isinstance(value, bool) or not isinstance(value, Integral if wanted is int else Real):
            return False
        return wanted is int or math.isfinite(value)
    return isinstance(value, wanted)


def require_sizes(where: object, least: int, most: int, names: str) -> None:
    """Raises ConfigError unless these fields are integers from `least` to `most`, tuples of them, or None.

    A model is built before its tensors are looked at, so no size may be beyond what anybody has.
    """
    for name in names.split():
        value: object = getattr(where, name)
        for size in value if isinstance(value, tuple) else (value,):  # pyright: ignore[reportUnknownVariableType]
            if size is not None and not (isinstance(size, Integral) and least <= int(size) <= most):
                raise ConfigError(f"{name}={str(size)[:40]}; accepted: {least} to {most}")  # pyright: ignore[reportUnknownArgumentType]


def refuse_unknown_keys(given: Iterable[str], accepted: Iterable[str], where: str) -> None:
    """Raises ConfigError naming every key of `given` that is not in `accepted`."""
    accepted = sorted(accepted)
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {', '.join(map(repr, unknown))}; accepted: {', '.join(accepted)}"
        )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Describes a stack of transformer layers: Mimi's, the temporal or the depth transformer."""

    dim: int
    num_heads: int
    num_layers: int
    dim_feedforward: int | tuple[int, ...]  # before gating's 2/3 rule; one per weight set where a tuple
    norm: Norm = "layer_norm"
    gating: str = "none"  # activation of the gated feed-forward; "none" is a plain GELU one
    positional_embedding: PositionalEmbedding = "sin"
    max_period: float = 10_000.0
    positional_scale: float = 1.0
    layer_scale: float | None = None  # initial value of the residual scales; None has none
    context: int | None = None  # positions a query sees, itself included; None is unlimited
    kv_repeat: int = 1  # query heads that share one key-value head
    cross_attention: bool = False
    weights_per_step: int = 0  # steps with weights of their own (depth transformer); 0 shares them
    weights_per_step_schedule: tuple[int, ...] | None = None  # step -> weight set

    def __post_init__(self) -> None:
        require_sizes(self, 1, 2**16, "dim num_heads kv_repeat")
        require_sizes(self, 0, 2**10, "num_layers weights_per_step weights_per_step_schedule")
        require_sizes(self, 1, 2**20, "dim_feedforward context")
        require_types(self)
        require_value("norm", self.norm, _NORMS)
        require_value("positional_embedding", self.positional_embedding, _POSITIONAL_EMBEDDINGS)
        require_value("gating", self.gating, _GATINGS)
        if self.max_period <= 0:
            raise ConfigError(f"max_period={self.max_period}; accepted: above 0")
        if self.dim % self.num_heads:
            raise ConfigError(f"dim={self.dim} is no multiple of num_heads={self.num_heads}")
        if self.num_heads % self.kv_repeat:
            raise ConfigError(f"num_heads={self.num_heads} is no multiple of kv_repeat={self.kv_repeat}")
        schedule = self.weights_per_step_schedule
        if schedule is not None and len(schedule) != self.weights_per_step:
            raise ConfigError(
                f"a schedule of {len(schedule)} steps for weights_per_step={self.weights_per_step}"
            )
        if isinstance(self.dim_feedforward, tuple) and len(self.dim_feedforward) != self.num_weight_sets:
            raise ConfigError(
                f"{len(self.dim_feedforward)} widths (dim_feedforward) for {self.num_weight_sets} weight sets"
            )
        if self.weights_per_step and self.gating == "none":
            raise ConfigError("weights_per_step needs a gated feed-forward (gating other than 'none')")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads // self.kv_repeat

    @property
    def num_weight_sets(self) -> int:
        if self.weights_per_step_schedule is not None:
            return max(self.weights_per_step_schedule) + 1
        return self.weights_per_step or 1

    def weight_set(self, step: int) -> int:
        """Returns which set of weights serves this step."""
        if self.num_weight_sets == 1:
            return 0
        return step if self.weights_per_step_schedule is None else self.weights_per_step_schedule[step]


@dataclass(frozen=True, kw_only=True)
class SEANetConfig:
    """Describes the convolutional encoder and decoder of Mimi."""

    channels: int = 1
    dimension: int = 512
    n_filters: int = 64
    n_residual_layers: int = 1
    ratios: tuple[int, ...] = (8, 6, 5, 4)  # decoder order; the encoder uses them reversed
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 3
    dilation_base: int = 2
    compress: int = 2
    activation: Literal["ELU"] = "ELU"
    causal: Literal[True] = True
    norm: Literal["none"] = "none"
    pad_mode: Literal["constant"] = "constant"
    true_skip: Literal[True] = True
    disable_norm_outer_blocks: int = 0

    def __post_init__(self) -> None:
        require_sizes(self, 1, 2**16, "channels dimension n_filters compress")
        require_sizes(
            self, 1, 2**10, "ratios kernel_size last_kernel_size residual_kernel_size dilation_base"
        )
        require_sizes(self, 0, 2**6, "n_residual_layers disable_norm_outer_blocks")
        require_types(self)
        if self.n_filters < self.compress:
            raise ConfigError(f"n_filters={self.n_filters} cannot be divided by compress={self.compress}")
        # Checkpoints spell these out; nothing else was ever published.
        require_value("seanet activation", self.activation, ("ELU",))
        require_value("seanet causal", self.causal, (True,))
        require_value("seanet norm", self.norm, ("none",))
        require_value("seanet pad_mode", self.pad_mode, ("constant",))
        require_value("seanet true_skip", self.true_skip, (True,))

    @property
    def hop_length(self) -> int:
        """Returns the samples per step of the encoder's output."""
        hop = 1
        for ratio in self.ratios:
            hop *= ratio
        return hop


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Describes the split quantizer: `n_q_semantic` codebooks alone, the rest residual."""

    dimension: int = 256
    n_q: int = 32
    n_q_semantic: int = 1
    bins: int = 2048
    input_dimension: int = 512
    output_dimension: int = 512

    def __post_init__(self) -> None:
        require_sizes(self, 1, 2**16, "dimension bins input_dimension output_dimension")
        require_sizes(self, 0, 2**10, "n_q n_q_semantic")
        require_types(self)


def published_mimi_transformer() -> TransformerConfig:
    """Returns what both transformers of `kyutai/mimi` are."""
    return TransformerConfig(
        dim=512,
        num_heads=8,
        num_layers=8,
        dim_feedforward=2048,
        layer_scale=0.01,
        context=250,
        positional_embedding="rope",
    )


@dataclass(frozen=True, kw_only=True)
class MimiConfig:
    """Describes the codec. Defaults are those of `kyutai/mimi`."""

    sample_rate: int = 24_000
    channels: int = 1
    frame_rate: float = 12.5
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    transformer: TransformerConfig = field(default_factory=published_mimi_transformer)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        require_types(self)
        stride = self.sample_rate / self.seanet.hop_length / self.frame_rate
        if stride != int(stride) or stride < 1:
            raise ConfigError(
                f"frame_rate={self.frame_rate} does not divide the encoder's rate "
                f"{self.sample_rate / self.seanet.hop_length}"
            )

    @property
    def frame_size(self) -> int:
        """Returns the samples in one frame."""
        return int(self.sample_rate / self.frame_rate)

    @property
    def resample_stride(self) -> int:
        """Returns the encoder steps in one frame (25 Hz -> 12.5 Hz is 2)."""
        return self.frame_size // self.seanet.hop_length


@dataclass(frozen=True, kw_only=True)
class ReferenceEncoderConfig:
    """Describes the encoder that makes rows of a reference's text: ARC (arXiv:2510.20535) over a Llama.

    Defaults are those of `kyutai/ARC4_Encoder_Llama`, of which a configuration names only the last four.
    """

    vocabulary: int = 128_256
    num_layers: int = 26
    num_heads: int = 24
    num_kv_heads: int = 8
    head_dim: int = 128
    dim_feedforward: int = 8192
    max_period: float = 500_000.0
    dim: int = 3072
    bridge_dim: int = 2048
    row_dim: int = 4096
    tokens_per_row: int = 4
    source: str = "kyutai/ARC4_Encoder_Llama"
    tokenizer: str = "meta-llama/Llama-3.2-3B-Instruct"

    def __post_init__(self) -> None:
        require_sizes(self, 1, 2**20, "vocabulary dim_feedforward")
        require_sizes(self, 1, 2**16, "num_heads num_kv_heads head_dim dim bridge_dim row_dim")
        require_sizes(self, 1, 2**10, "num_layers tokens_per_row")
        require_types(self)


@dataclass(frozen=True, kw_only=True)
class ConditionerConfig:
    """Describes one conditioner: a table over a text attribute, a tensor of the caller, or references."""

    name: str
    kind: Literal["lut", "tensor", "multi_arc_encoder"]
    dim: int
    n_bins: int = 0
    possible_values: tuple[str, ...] | None = None
    init_scale: float = 1.0
    force_linear: bool = True
    pad_empty: bool = True
    learn_padding: bool = True
    encoder: ReferenceEncoderConfig | None = None  # where the kind is "multi_arc_encoder"

    def __post_init__(self) -> None:
        require_types(self)
        kinds = ("lut", "tensor", "multi_arc_encoder")
        require_value(f"conditioner {self.name!r}: type", self.kind, kinds)
        require_sizes(self, 0, 2**16, "dim n_bins")


@dataclass(frozen=True, kw_only=True)
class FuserConfig:
    """Describes how conditions reach the temporal transformer."""

    sum: tuple[str, ...] = ()  # added to every input
    cross: tuple[str, ...] = ()  # attended to by the cross attention
    prepend: tuple[str, ...] = ()  # read before everything, each in a position of its own
    streaming_sum: tuple[str, ...] = ()  # added to the inputs of some frames: rows of a reference
    cross_attention_pos_emb: bool = False
    cross_attention_pos_emb_scale: float = 1.0

    def __post_init__(self) -> None:
        require_types(self)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Describes low-rank updates of the linear layers."""

    rank: int = 128
    scaling: float = 2.0

    def __post_init__(self) -> None:
        require_sizes(self, 1, 2**16, "rank")
        require_types(self)


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Describes the depth transformer: one step per generated codebook."""

    transformer: TransformerConfig
    multi_linear: bool = False  # one projection from the temporal transformer per weight set
    low_rank_embeddings: int | None = None
    norm: Norm | None = None  # applied before each codebook's output layer

    def __post_init__(self) -> None:
        require_types(self)
        if self.multi_linear and not self.transformer.weights_per_step:
            raise ConfigError("several inputs (multi_linear) go with weights per step (weights_per_step)")


@dataclass(frozen=True, kw_only=True)
class MoshiConfig:
    """Describes the language model: both transformers over one text and `n_q` audio streams."""

    temporal: TransformerConfig
    depth: DepthConfig | None  # None where dep_q is 0
    delays: tuple[int, ...]  # of the text stream and each codebook, in frames
    n_q: int = 8
    dep_q: int = 8
    card: int = 1024
    text_card: int = 32_000
    text_card_out: int | None = None
    demux_second_stream: bool = False
    norm_emb: bool = False
    bias_proj: bool = False
    text_padding_id: int = 3
    text_end_padding_id: int = 0
    reference_token_id: int | None = None  # the text token by which the model asks for a reference
    extra_heads_num_heads: int = 0
    extra_heads_dim: int = 6
    conditioners: tuple[ConditionerConfig, ...] = ()
    fuser: FuserConfig | None = None
    quantize: bool = False  # weights stored as int8 with one scale per output row
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        require_sizes(self, 0, 2**10, "n_q dep_q extra_heads_num_heads extra_heads_dim")
        require_sizes(self, 1, 2**20, "card text_card text_card_out")
        require_sizes(self, 0, 2**20, "reference_token_id")
        require_types(self)
        require_sizes(self, -(2**10), 2**12, "delays")
        if len(self.delays) != self.n_q + 1:
            raise ConfigError(f"{len(self.delays)} delays for one text and n_q={self.n_q} audio streams")
        if min(self.delays) < 0:
            raise ConfigError(f"delays={self.delays}; none may be negative")
        if not 0 <= self.dep_q <= self.n_q:
            raise ConfigError(f"dep_q={self.dep_q}; accepted: 0 to n_q={self.n_q}")
        if (self.depth is None) != (self.dep_q == 0):
            raise ConfigError("a depth transformer exists exactly where dep_q is above 0")
        self._check_conditions()

    def _check_conditions(self) -> None:
        fuser = self.fuser or FuserConfig()
        kinds = {one.name: one.kind for one in self.conditioners}
        told = (*fuser.sum, *fuser.cross, *fuser.prepend)
        for name in (*told, *fuser.streaming_sum):
            require_value("fuser: a condition", name, kinds or ("none, for there are no conditioners",))
        for name, kind in kinds.items():
            if (kind == "multi_arc_encoder" and name in told) or (
                kind != "multi_arc_encoder" and name in fuser.streaming_sum
            ):
                raise ConfigError(
                    f"fuser: condition {name!r} of type {kind}; "
                    "streaming_sum takes multi_arc_encoder, and sum, cross and prepend take all others"
                )

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    @property
    def num_streams(self) -> int:
        """Counts the text stream and the codebooks."""
        return self.n_q + 1

    @property
    def num_user_codebooks(self) -> int:
        """Counts the codebooks that are given at every step rather than generated."""
        return self.n_q - self.dep_q


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Sets how tokens are chosen from logits."""

    greedy: bool = False
    temp: float = 0.8  # audio
    temp_text: float = 0.7
    top_k: int = 250  # audio; 0 keeps all
    top_k_text: int = 25
    top_p: float = 0.0  # audio; 0 keeps all
    top_p_text: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("temp", self.temp), ("temp_text", self.temp_text)):
            if not isinstance(value, Real) or not math.isfinite(value):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"{name}={value!r}; accepted: a finite number")
        for name, value in (("top_k", self.top_k), ("top_k_text", self.top_k_text), ("seed", self.seed)):
            if not isinstance(value, Integral) or not -(2**63) <= value < 2**63:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"{name}={str(value)[:40]}; accepted: an integer of 64 bits")
        if self.temp < 0 or self.temp_text < 0:
            raise ConfigError(f"temp={self.temp}, temp_text={self.temp_text}; neither may be negative")
        if self.top_k < 0 or self.top_k_text < 0:
            raise ConfigError(f"top_k={self.top_k}, top_k_text={self.top_k_text}; neither may be negative")
        if not (0 <= self.top_p <= 1 and 0 <= self.top_p_text <= 1):
            raise ConfigError(f"top_p={self.top_p}, top_p_text={self.top_p_text}; accepted: 0 to 1")
