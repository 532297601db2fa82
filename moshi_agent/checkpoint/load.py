"""One call from the name of a checkpoint to models that are ready."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.checkpoint.format import CheckpointFiles, Format, Reference
from moshi_agent.checkpoint.formats import FORMATS, locate
from moshi_agent.checkpoint.models import add_references, build_lm, fill_mimi, ignore_early_end
from moshi_agent.checkpoint.quantised import ROUNDINGS, Rounding
from moshi_agent.checkpoint.sources import BUILT_IN, open_source
from moshi_agent.checkpoint.tensors import reading_device
from moshi_agent.checkpoint.tokenizer import read_tokenizer
from moshi_agent.checkpoint.voices import Voices, find_voices
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.cuda_graphs import give_back_memory
from moshi_agent.nn.device_errors import memory_for
from moshi_agent.nn.own_precision import own_precision
from moshi_agent.nn.packing import PACK_FORMATS, PackFormat


@dataclass(frozen=True)
class Options:
    """How `load_checkpoint` was asked to load."""

    device: str
    dtype: torch.dtype
    fuse_lora: bool
    pack: PackFormat | None
    progress: bool = False
    rounding: Rounding | None = None  # of weights, while they are loaded


@own_precision()
def load_checkpoint(
    source: str | os.PathLike[str] = BUILT_IN,
    *,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    token: str | None = None,
    lora: Reference | None = None,
    fuse_lora: bool = True,
    pack: PackFormat | Literal["auto"] | None = None,
    progress: bool = False,
    formats: Sequence[Format] = FORMATS,
) -> Checkpoint:
    """Loads a codec, its language model and the tokenizer.

    Args:
        source: `tiny` (the built-in model), a folder, or `owner/name` of a Hugging Face repository;
            in Kyutai's format or in that of Transformers. `./tiny` is always a folder, and
            `hf://owner/name` always a repository.
        device: as PyTorch names it; `auto` is the first CUDA device, or the CPU without one.
        dtype: of the language model; by default float32 on a CPU, float16 on GPUs that have no bfloat16
            (Volta, Turing), and bfloat16 elsewhere. "int8" and "int4" compute in that type as well, and round
            the weights one layer after the other: half the memory, or less. The codec is always float32.
        revision, token: of the repository. Set `HF_HUB_OFFLINE=1` to use only what was fetched before.
        lora: a file of low-rank updates to use with the model: a path, or `hf://owner/name/file`.
        fuse_lora: adds low-rank updates to the weights; else they are kept apart.
        pack: packs the weights, the codec's too, for inference on the CPU in this format; `auto` is
            float32 on the CPU, and on CUDA for the codec and the embeddings alone. A packed model takes and
            gives float32, and can be neither trained nor saved. Less than float32 changes some of the codec's
            codes.
        progress: shows a bar where there is a terminal.
        formats: that are known, each told by the first that knows it.

    Raises:
        CheckpointError: a file that is missing, cannot be fetched, is damaged, or does not fit.
        ConfigError: a configuration that no model can be built from, or arguments that do not go together.
        DeviceFull: the weights have no room on the device.
    """
    options = _options(device, dtype, fuse_lora, pack, progress)
    place = open_source(source, revision, token)
    files = locate(place, token, lora, formats)
    with memory_for(f"the weights of {place.name}", "dtype='int8' or 'int4', another device"):
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
    give_back_memory()  # an engine counts what is free before it decides about its caches


def _options(
    device: str,
    dtype: torch.dtype | str | None,
    fuse_lora: bool,
    pack: PackFormat | Literal["auto"] | None,
    progress: bool = False,
) -> Options:
    rounding: Rounding | None = next((one for one in ROUNDINGS if one == dtype), None)
    dtype = _dtype_of(None if rounding else dtype)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = torch.device(device).type in ("cpu", "meta")
    if pack == "auto":
        pack = ("int8" if rounding == "int8" else "float32") if on_cpu else None
    if rounding == "int8" and pack not in (None, "int8"):
        raise ConfigError(f"pack={pack!r} with dtype='int8'; accepted: pack='int8', 'auto' or None")
    if pack is not None and pack not in PACK_FORMATS:
        raise ConfigError(f"pack={pack!r}; accepted: auto, {', '.join(PACK_FORMATS)}")
    if pack is not None and not on_cpu:
        raise ConfigError(f"pack={pack!r} on {device}; weights are packed for the CPU only")
    if pack is not None and dtype not in (None, torch.float32):
        raise ConfigError(f"pack={pack!r} with dtype={dtype}; a packed model computes in float32")
    dtype = dtype or _own_dtype(device)
    if pack is not None and rounding == "int8":
        rounding = None  # packing rounds them itself
    return Options(device, dtype, fuse_lora, pack, progress, rounding)


def _dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The type, or the one of that name. Raises ConfigError for another."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1):
        return dtype
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, str) and dtype in types:
        return types[dtype]
    # A step waits for its weights, and not for the products: so what counts is their bytes.
    is_float8 = "float8" in str(dtype) or "fp8" in str(dtype)
    reason = "; int8 takes the bytes of float8 and moves weights less" if is_float8 else ""
    raise ConfigError(f"dtype={dtype!r}; accepted: {', '.join((*types, *ROUNDINGS))}{reason}")


def _own_dtype(device: str) -> torch.dtype:
    """What the device computes in by itself: before Ampere a GPU has no bfloat16 and only emulates it."""
    kind = torch.device(device).type
    if kind in ("cpu", "meta"):
        return torch.float32
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def build(name: str, files: CheckpointFiles, options: Options) -> Checkpoint:
    """Builds the models in these files, not packed yet.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    config, mimi_config = files.read_lm_config(), files.read_mimi_config()
    if config is not None:
        _check_fit(name, config, mimi_config, files.num_codebooks)
    # The small parts first: what is wrong with them shows before the large one is read.
    tokenizer = None if files.tokenizer is None else read_tokenizer(files.tokenizer)
    mimi = fill_mimi(mimi_config, files.read_mimi(reading_device(options.device)), options.device)
    mimi.set_num_codebooks(min(files.num_codebooks, mimi.total_codebooks))
    usage = files.usage
    return Checkpoint(
        name=name,
        mimi=mimi,
        mimi_config=mimi_config,
        lm=None if config is None else _build_lm(config, files, options),
        config=config,
        tokenizer=tokenizer,
        voices=Voices() if files.voices is None else find_voices(files.voices),
        **{one.name: getattr(usage, one.name) for one in fields(usage)},
    )


def _build_lm(config: MoshiConfig, files: CheckpointFiles, options: Options) -> LMModel:
    lm = build_lm(
        config,
        files.read_lm(reading_device(options.device)),
        options.device,
        options.dtype,
        files.lora_weights,
        # Packing adds the updates to one layer after the other.
        fuse_lora=options.fuse_lora and (options.pack is None or options.rounding is not None),
        to_be_packed=options.pack is not None,
        progress=options.progress,
        rounding=options.rounding,
    )
    if files.references is not None:
        add_references(lm, files.references)
    if files.usage.kind_of(config) == "translator":
        ignore_early_end(lm)
    return lm


def _check_fit(name: str, config: MoshiConfig, mimi_config: MimiConfig, num_codebooks: int) -> None:
    quantizer = mimi_config.quantizer
    if quantizer.bins != config.card or quantizer.n_q < num_codebooks:
        raise CheckpointError(
            f"{name}: the language model speaks {num_codebooks} codebooks of {config.card} entries; "
            f"the codec beside it has {quantizer.n_q} of {quantizer.bins}"
        )
