"""One call from the name of a checkpoint to models that are ready."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.kyutai.config import MOSHI_7B
from moshi_agent.checkpoint.kyutai.files import KyutaiFiles, Reference, locate_kyutai
from moshi_agent.checkpoint.models import build_lm, build_mimi, ignore_early_end
from moshi_agent.checkpoint.sources import BUILT_IN, Source, open_source
from moshi_agent.checkpoint.tensors import read_json, read_tensors
from moshi_agent.checkpoint.transformers.config import is_transformers_config
from moshi_agent.checkpoint.transformers.files import (
    TransformersFiles,
    build_transformers,
    locate_transformers,
)
from moshi_agent.checkpoint.voices import Voices, find_voices
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.packing import PACK_FORMATS, PackFormat

_DEFAULT_CODEBOOKS = 8


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Models that are ready, and what their checkpoint says about their use."""

    name: str
    mimi: MimiModel
    mimi_config: MimiConfig
    lm: LMModel | None  # None for a codec alone
    config: MoshiConfig | None
    tokenizer: SentencePieceProcessor | None  # None where the checkpoint has no sentencepiece model
    model_type: str = "moshi"
    lm_gen_config: Mapping[str, Any] = field(default_factory=dict[str, Any])  # arguments of LMGen
    tts_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stt_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model_id: Mapping[str, Any] = field(default_factory=dict[str, Any])
    voices: Voices = field(default_factory=Voices)  # that came with it


@dataclass(frozen=True)
class Options:
    """How `load_checkpoint` was asked to load."""

    device: str
    dtype: torch.dtype
    fuse_lora: bool
    pack: PackFormat | None
    progress: bool = False


def load_checkpoint(
    source: str | os.PathLike[str] = BUILT_IN,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    token: str | None = None,
    lora: Reference | None = None,
    fuse_lora: bool = True,
    pack: PackFormat | Literal["auto"] | None = None,
    progress: bool = False,
) -> Checkpoint:
    """Loads a codec, its language model and the tokenizer.

    Args:
        source: `tiny` (the built-in model), a folder, or `owner/name` of a Hugging Face repository;
            in Kyutai's format or in that of Transformers. `./tiny` is always a folder, and
            `hf://owner/name` always a repository.
        device: as PyTorch names it; `auto` is the first CUDA device, or the CPU without one.
        dtype: of the language model; by default float32 on a CPU and bfloat16 elsewhere. The codec
            is always float32.
        revision, token: of the repository. Set `HF_HUB_OFFLINE=1` to use only what was fetched before.
        lora: a file of low-rank updates to use with the model: a path, or `hf://owner/name/file`.
        fuse_lora: adds low-rank updates to the weights; else they are kept apart.
        pack: packs the weights, the codec's too, for inference on the CPU in this format; `auto` is
            float32 on the CPU, and on CUDA for the codec and the embeddings alone. A packed model takes and
            gives float32, and can be neither trained nor saved. Less than float32 changes some of the codec's
            codes.
        progress: shows a bar where there is a terminal.

    Raises:
        CheckpointError: a file that is missing, cannot be fetched, is damaged, or does not fit.
        ConfigError: a configuration that no model can be built from, or arguments that do not go together.
    """
    options = _options(device, dtype, fuse_lora, pack, progress)
    place = open_source(source, revision, token)
    files = locate(place, token, lora)
    checkpoint = build(place.name, files, options)
    if options.pack is not None:
        if checkpoint.lm is not None:
            checkpoint.lm.pack(options.pack)
        checkpoint.mimi.pack(options.pack)
    elif pack == "auto" and checkpoint.mimi.device.type == "cuda":
        prepare_for_cuda(checkpoint)
    return checkpoint


def prepare_for_cuda(checkpoint: Checkpoint) -> None:
    """Packs what can be packed there: the codec, and the embeddings of the language model."""
    checkpoint.mimi.pack("float32")
    if checkpoint.lm is not None:
        checkpoint.lm.pack_embeddings(checkpoint.lm.dtype)
    torch.cuda.empty_cache()  # an engine counts what is free before it decides about its caches


def locate(
    source: Source, token: str | None = None, lora: Reference | None = None
) -> KyutaiFiles | TransformersFiles:
    """The files of a checkpoint, fetched where they have to be, its format told by its `config.json`.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    path = source.find("config.json")
    config = {} if path is None else read_json(path)
    if path is not None and is_transformers_config(config):
        if lora is not None:
            raise ConfigError("low-rank updates go with checkpoints in Kyutai's format")
        return locate_transformers(source, path, config)
    files = locate_kyutai(source, token, config_path=path, lora_weights=lora)
    if lora is not None and files.lora_weights is not None and not files.read_lm_config().lora:
        files.lm_config = (files.lm_config or MOSHI_7B) | _lora_keys(files.lora_weights)
    return files


def _lora_keys(weights: Path) -> dict[str, Any]:
    """What the `config.json` beside a file of updates says about them; else their rank, and what is usual."""
    beside = weights.parent / "config.json"
    config = read_json(beside) if beside.is_file() else {}
    # The first files have the updates of all depth steps in one tensor; the others show the rank.
    tensors = read_tensors(weights, "meta")
    ranks = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".lora_A.weight")]
    usual = {"lora": True, "lora_rank": min(ranks, default=1)}
    return usual | {key: config[key] for key in ("lora_rank", "lora_scaling") if key in config}


def _options(
    device: str,
    dtype: torch.dtype | None,
    fuse_lora: bool,
    pack: PackFormat | Literal["auto"] | None,
    progress: bool = False,
) -> Options:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = torch.device(device).type in ("cpu", "meta")
    if pack == "auto":
        pack = "float32" if on_cpu else None
    if pack is not None and pack not in PACK_FORMATS:
        raise ConfigError(f"pack={pack!r}; accepted: auto, {', '.join(PACK_FORMATS)}")
    if pack is not None and not on_cpu:
        raise ConfigError(f"pack={pack!r} on {device}; weights are packed for the CPU only")
    if pack is not None and dtype not in (None, torch.float32):
        raise ConfigError(f"pack={pack!r} with dtype={dtype}; a packed model computes in float32")
    dtype = dtype or (torch.float32 if on_cpu else torch.bfloat16)
    return Options(device, dtype, fuse_lora, pack, progress)


def build(name: str, files: KyutaiFiles | TransformersFiles, options: Options) -> Checkpoint:
    """The models in these files, not packed yet.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    if isinstance(files, TransformersFiles):
        return _build_transformers(name, files, options)
    config, mimi_config = files.read_lm_config(), files.read_mimi_config()
    _check_fit(name, config, mimi_config, files.num_codebooks)
    # The small parts first: what is wrong with them shows before the large one is read.
    tokenizer = read_tokenizer(files.tokenizer)
    mimi = build_mimi(mimi_config, files.mimi_weights, options.device)
    mimi.set_num_codebooks(files.num_codebooks)
    lm = build_lm(
        config,
        files.moshi_weights,
        options.device,
        options.dtype,
        files.lora_weights,
        # Packing adds the updates to one layer after the other.
        fuse_lora=options.fuse_lora and options.pack is None,
        to_be_packed=options.pack is not None,
        progress=options.progress,
    )
    if files.model_type == "hibiki":
        ignore_early_end(lm)
    return Checkpoint(
        name=name,
        mimi=mimi,
        mimi_config=mimi_config,
        lm=lm,
        config=config,
        tokenizer=tokenizer,
        model_type=files.model_type,
        lm_gen_config=files.lm_gen_config,
        tts_config=files.tts_config,
        stt_config=files.stt_config,
        model_id=files.model_id,
        voices=Voices() if files.voices is None else find_voices(files.voices),
    )


def _build_transformers(name: str, files: TransformersFiles, options: Options) -> Checkpoint:
    if files.lm_config is not None:
        _check_fit(name, files.lm_config, files.mimi_config, files.lm_config.dep_q)
    tokenizer = None if files.tokenizer is None else read_tokenizer(files.tokenizer)
    mimi, lm = build_transformers(
        files, options.device, options.dtype, options.pack is not None, options.progress
    )
    count = _DEFAULT_CODEBOOKS if lm is None else lm.dep_q
    mimi.set_num_codebooks(min(count, mimi.total_codebooks))
    return Checkpoint(
        name=name,
        mimi=mimi,
        mimi_config=files.mimi_config,
        lm=lm,
        config=files.lm_config,
        tokenizer=tokenizer,
        model_type="moshi" if lm is not None else "mimi",
    )


def _check_fit(name: str, config: MoshiConfig, mimi_config: MimiConfig, num_codebooks: int) -> None:
    quantizer = mimi_config.quantizer
    if quantizer.bins != config.card or quantizer.n_q < num_codebooks:
        raise CheckpointError(
            f"{name}: the language model speaks {num_codebooks} codebooks of {config.card} entries; "
            f"the codec beside it has {quantizer.n_q} of {quantizer.bins}"
        )


def read_tokenizer(path: Path) -> SentencePieceProcessor:
    """Raises CheckpointError where the file is no sentencepiece model."""
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a sentencepiece model ({error})") from error
