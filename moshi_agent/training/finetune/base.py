"""Loads what is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.checkpoint.format import Origin
from moshi_agent.checkpoint.formats import format_of
from moshi_agent.checkpoint.kyutai.files import KyutaiFiles, locate_kyutai
from moshi_agent.checkpoint.kyutai.format import KYUTAI
from moshi_agent.checkpoint.load import Options, build
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.embedding import TokenEmbedding
from moshi_agent.training.finetune.config import FineTuneConfig, ModelPaths
from moshi_agent.training.finetune.low_rank import add_low_rank, refuse_rounded
from moshi_agent.training.runs.precision import faster_in_bfloat16


@dataclass(frozen=True)
class Base:
    """Holds a checkpoint on the CPU, and its files, to which the written ones refer."""

    files: KyutaiFiles
    checkpoint: Checkpoint
    lm: LMModel


def load_base(config: FineTuneConfig, dtype: torch.dtype) -> Base:
    """Loads the model with what is to be trained in float32, and the rest in `dtype`.

    Raises:
        CheckpointError: a file that is missing or damaged.
        ConfigError: a checkpoint that cannot be fine-tuned, with the reason.
    """
    name, files = config.moshi_paths.hf_repo_id, _locate(config.moshi_paths)
    if config.lora.enable and files.lora_weights is not None:
        raise ConfigError(f"{name} has low-rank updates already; they have to be added to its weights first")
    kept = torch.float32 if config.full_finetuning else dtype
    checkpoint = build(name, files, Options("cpu", kept, fuse_lora=True, pack=None))
    lm = checkpoint.lm
    if lm is None:
        raise ConfigError(f"{name} holds a codec alone; there is no language model to fine-tune")
    if lm.n_q != 2 * checkpoint.mimi.num_codebooks:
        raise ConfigError(
            f"{name}: a model of {lm.n_q} streams of audio, {lm.dep_q} of them its own; "
            "accepted: those for conversations of two, with as many for each"
        )
    if config.references:
        _give_references(lm, name)
    if config.lora.enable:
        add_low_rank(lm, config.lora, config.seed)
    else:
        refuse_rounded(lm)
        lm.requires_grad_(True)
    if config.references and lm.oracle_emb is not None:
        lm.oracle_emb.weight = nn.Parameter(lm.oracle_emb.weight.detach().float())
    # The type that caches and conditions are in.
    lm.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)
    for transformer in (lm.transformer, *([lm.depformer] if lm.dep_q else [])):
        transformer.checkpointing = config.gradient_checkpointing
    return Base(files, checkpoint, lm)


def _give_references(lm: LMModel, name: str) -> None:
    """Gives a model that has none a table for references: as KAME's begins, that of its text.

    Padding alone is nothing at all in it, so that the model is what it was where there is no reference.

    Raises:
        ConfigError: a model that takes rows of an encoder, or is told ahead.
    """
    if lm.is_told_ahead:
        raise ConfigError(f"{name} is told ahead what it is to say; it cannot be taught references as well")
    if lm.takes_references == "rows":
        raise ConfigError(f"{name} takes references as rows of an encoder; those cannot be trained here")
    if lm.oracle_emb is not None:
        return
    if not lm.text_emb.is_plain:
        raise ConfigError(f"{name}: its text is more than one table; references cannot be taught to it")
    lm.add_references()
    table = cast(TokenEmbedding, lm.oracle_emb).weight
    with torch.no_grad():
        table.copy_(lm.text_emb.weight)
        table[lm.config.text_padding_id] = 0


def _locate(paths: ModelPaths) -> KyutaiFiles:
    place = open_source(paths.hf_repo_id)
    given = {
        "moshi_weights": paths.moshi_path,
        "mimi_weights": paths.mimi_path,
        "tokenizer": paths.tokenizer_path,
    }
    if any(given.values()) or paths.config_path:
        config_path = place.find("config.json") if paths.config_path is None else Path(paths.config_path)
        return locate_kyutai(place, config_path=config_path, **given)
    origin = Origin.of(place)
    current = format_of(origin)
    if current is KYUTAI:
        return KYUTAI.locate(origin)
    raise ConfigError(
        f"{paths.hf_repo_id} is in the format of {current.name}; convert it first: "
        f"moshi-agent convert {paths.hf_repo_id} FOLDER --to kyutai"
    )


def compute_dtype(config: FineTuneConfig, device: torch.device) -> torch.dtype:
    """Chooses the type that products are computed in, which `auto` leaves to the device."""
    if config.param_dtype != "auto":
        return torch.bfloat16 if config.param_dtype == "bfloat16" else torch.float32
    lower = faster_in_bfloat16() if device.type == "cpu" else device.type == "cuda"
    return torch.bfloat16 if lower else torch.float32
