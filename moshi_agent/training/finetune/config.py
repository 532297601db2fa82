"""The settings of a fine-tuning. Names and defaults are those of moshi-finetune, where it has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from moshi_agent.errors import ConfigError
from moshi_agent.training.runs.settings import require_range


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Names the conversations: jsonl files of `{"path", "duration"}`, as `StereoDataset` reads them."""

    train_data: Path | None = None
    eval_data: Path | None = None
    shuffle: bool = True
    shift_crops: bool = False  # draws each crop up to half its length earlier or later
    encoding: Literal["whole", "live"] = "whole"  # a file at once, or frame by frame as in a call
    crowded: Literal["drop", "shift"] = "drop"  # words that come faster than frames
    cache: Path | None = None  # a folder for the codes of the audio; by default one in the run's

    def __post_init__(self) -> None:
        if not self.shuffle:
            raise ConfigError("data.shuffle=False; conversations are drawn in another order in every epoch")


@dataclass(frozen=True, kw_only=True)
class ModelPaths:
    """Names what is fine-tuned: a checkpoint, and files to take instead of its own."""

    hf_repo_id: str = "kyutai/moshiko-pytorch-bf16"  # or a folder, or tiny
    mimi_path: str | None = None
    moshi_path: str | None = None
    tokenizer_path: str | None = None
    config_path: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Sets low-rank updates of every linear layer."""

    enable: bool = False
    rank: int = 64
    scaling: float = 2.0
    ft_embed: bool = False  # trains the tables of embeddings, too, as a whole

    def __post_init__(self) -> None:
        require_range("lora.rank", self.rank, 1)
        if not self.scaling > 0:
            raise ConfigError(f"lora.scaling={self.scaling}; accepted: a number above 0")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Sets AdamW and its learning rate: one cycle up to `lr` in `pct_start` of the steps, then down to 0."""

    lr: float = 1e-4
    weight_decay: float = 0.1
    pct_start: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"optim.lr={self.lr}; accepted: a number above 0")
        require_range("optim.weight_decay", self.weight_decay, 0)
        if not 0 <= self.pct_start < 1:
            raise ConfigError(f"optim.pct_start={self.pct_start}; accepted: 0 to below 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas={list(self.betas)}; accepted: 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Sets the shares of read tokens that are replaced. Not in moshi-finetune."""

    text: float = 0.0  # by padding
    own: float = 0.0  # the model's own codes, by random ones
    user: float = 0.0  # the user's codes but those of the first codebook, by random ones

    def __post_init__(self) -> None:
        for name in ("text", "own", "user"):
            require_range(f"noise.{name}", getattr(self, name), 0, 1)


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """Sets a whole fine-tuning. A step sees `batch_size` x `num_microbatches` x processes crops."""

    run_dir: Path  # everything is written there; a run that was stopped goes on from what it finds
    data: DataConfig = field(default_factory=DataConfig)
    moshi_paths: ModelPaths = field(default_factory=ModelPaths)
    # What is trained: one of these.
    full_finetuning: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)
    # Teaches the model to speak about references, which lie beside the conversations. A model without a table
    # for them gets one, which is trained whatever else is. Not in moshi-finetune.
    references: bool = False
    # The losses.
    first_codebook_weight_multiplier: float = 1.0
    text_padding_weight: float = 0.5  # of text tokens that say nothing
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    depth_share: float = 1.0  # of the frames, drawn at random, that the depth transformer is trained on
    # The steps.
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    duration_sec: float = 10.0  # of a crop
    batch_size: int = 1  # crops that a process has at once
    num_microbatches: int = 1  # batches of which the gradients are gathered for one step
    max_steps: int = 100
    max_norm: float = 1.0  # of the gradient, above which it is clipped
    # "auto" is bfloat16, but float32 on a processor that is no faster in bfloat16. What is trained, and
    # everything that the optimizer keeps, is float32 in any case.
    param_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    gradient_checkpointing: bool = True  # computes each layer twice rather than keep what is inside it
    # What is written, and every how many steps; 0 is at the end only.
    log_freq: int = 1
    do_ckpt: bool = True
    ckpt_freq: int = 0
    num_ckpt_keep: int = 3  # 0 keeps all
    save_adapters: bool = True  # low-rank updates as such; else added to the weights
    do_eval: bool = False
    eval_freq: int = 0
    eval_batches: int = 40  # at most, all processes together
    sample_freq: int = 0  # 0 is never: replies to the evaluation conversations, as audio
    sample_sec: float = 10.0
    num_samples: int = 2
    turns_freq: int = 0  # 0 is never: how the model takes turns, see `TurnTaking`. Not in moshi-finetune
    turns_data: Path | None = None  # samples in the layout of `moshi-agent evaluate`; None: the small suite

    def __post_init__(self) -> None:
        if self.full_finetuning == self.lora.enable:
            raise ConfigError(
                f"full_finetuning={self.full_finetuning} and lora.enable={self.lora.enable}; "
                "one of them says what is trained, and the other is false"
            )
        for name in ("batch_size", "num_microbatches", "max_steps", "log_freq", "eval_batches"):
            require_range(name, getattr(self, name), 1)
        for name in (
            "seed",
            "ckpt_freq",
            "num_ckpt_keep",
            "eval_freq",
            "sample_freq",
            "num_samples",
            "turns_freq",
        ):
            require_range(name, getattr(self, name), 0)
        require_range("text_padding_weight", self.text_padding_weight, 0)
        for name in (
            "duration_sec",
            "sample_sec",
            "depth_share",
            "max_norm",
            "first_codebook_weight_multiplier",
        ):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}; accepted: a number above 0")
        require_range("depth_share", self.depth_share, 0, 1)
