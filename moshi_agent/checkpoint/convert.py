"""A checkpoint in the other format: the same tensors, bit for bit, under other names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moshi_agent.checkpoint.kyutai.config import write_moshi_config as write_kyutai_config
from moshi_agent.checkpoint.kyutai.files import KyutaiFiles
from moshi_agent.checkpoint.kyutai.mimi_config import write_mimi_config as write_kyutai_mimi_config
from moshi_agent.checkpoint.kyutai.names import mimi_to_kyutai
from moshi_agent.checkpoint.kyutai.save import LM_NAME, MIMI_CONFIG_NAME, MIMI_NAME
from moshi_agent.checkpoint.kyutai.weights import read_kyutai_lm, read_kyutai_mimi
from moshi_agent.checkpoint.load import locate, read_tokenizer
from moshi_agent.checkpoint.sources import Source, open_source
from moshi_agent.checkpoint.tensors import check_tensors, read_json, read_stored
from moshi_agent.checkpoint.transformers.files import CODEC_PREFIX, TransformersFiles
from moshi_agent.checkpoint.transformers.names import mimi_pairings, moshi_pairings, to_ours, to_theirs
from moshi_agent.checkpoint.transformers.save import DEFAULT_SHARD_SIZE, write_weights
from moshi_agent.checkpoint.transformers.write_config import (
    read_generation_config,
    write_generation_config,
    write_moshi_config,
)
from moshi_agent.checkpoint.write import copy_file, make_folder, write_json, write_tensors
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.conv import CausalConvTranspose1d

Format = Literal["kyutai", "transformers"]
FORMATS: tuple[Format, ...] = ("kyutai", "transformers")

GENERATION_CONFIG_NAME = "generation_config.json"
FEATURES_NAME = "preprocessor_config.json"
TOKENIZER_NAME = "tokenizer.model"

_ADDED = ("add_bos_token", "add_eos_token")  # nothing stands before or behind the text of Moshi


def convert_checkpoint(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    to: Format,
    *,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    revision: str | None = None,
    token: str | None = None,
) -> None:
    """Writes a checkpoint of Kyutai's format in that of Transformers, or the other way round.

    No tensor is rounded: each keeps the type that its file has, and there and back again every bit is as it
    was. The choice of tokens (`lm_gen_config`) goes to `generation_config.json`, and back.

    Args:
        source: as `load_checkpoint` takes it.
        folder: made where there is none.
        max_shard_size: of one weight file of Transformers.

    Raises:
        CheckpointError: files that are missing, damaged, or have the wanted format already.
        ConfigError: a model that the other format cannot hold, with the reason.
        OutputError: a file cannot be written.
    """
    place, target = open_source(source, revision, token), Path(folder)
    if to not in FORMATS:
        raise ConfigError(f"to={to!r}; accepted: {', '.join(FORMATS)}")
    config_path = place.find("config.json")
    if config_path is not None and config_path.parent.resolve() == target.resolve():
        raise CheckpointError(f"{target}: the checkpoint to be converted; another folder is needed")
    files = locate(place, token)
    if isinstance(files, TransformersFiles) == (to == "transformers"):
        raise CheckpointError(f"{place.name}: its format is that of {to} already")
    if isinstance(files, KyutaiFiles):
        _to_transformers(files, target, max_shard_size)
    else:
        _to_kyutai(files, place, target)


def _to_transformers(files: KyutaiFiles, folder: Path, max_shard_size: int | str) -> None:
    _refuse_what_is_lost(files)
    config, mimi_config = files.read_lm_config(), files.read_mimi_config()
    values = write_moshi_config(config, mimi_config)
    generation = write_generation_config(files.lm_gen_config, config.dep_q)
    mimi, lm = _skeletons(mimi_config, config)
    codec, tensors = (
        read_kyutai_mimi(mimi_config, files.mimi_weights),
        read_kyutai_lm(config, files.moshi_weights),
    )
    check_tensors(mimi.state_dict(), codec)
    check_tensors(lm.state_dict(), tensors)
    codec_pairings = mimi_pairings(codec.tensors, mimi_config.transformer, CODEC_PREFIX)
    theirs = to_theirs(moshi_pairings(config), tensors.tensors) | to_theirs(codec_pairings, codec.tensors)
    write_weights(folder, theirs, max_shard_size)
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.tensors.values()}
    write_json(folder / "config.json", values | ({"dtype": types.pop()} if len(types) == 1 else {}))
    if generation:
        write_json(folder / GENERATION_CONFIG_NAME, generation)
    write_json(folder / FEATURES_NAME, feature_extractor_values(mimi_config))
    write_tokenizer(files.tokenizer, folder)


def write_tokenizer(path: Path, folder: Path) -> None:
    """The sentencepiece model, and what lets Transformers read it: `tokenizer_config.json`.

    Raises:
        CheckpointError: the file is no sentencepiece model.
        OutputError: a file cannot be written.
    """
    model = read_tokenizer(path)
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "pad": model.pad_id()}
    special = {f"{name}_token": model.IdToPiece(one) for name, one in ids.items() if one >= 0}
    # The class there for any sentencepiece model with this treatment of spaces.
    values = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", values | special | dict.fromkeys(_ADDED, False))
    copy_file(path, folder / TOKENIZER_NAME)


def _refuse_what_is_lost(files: KyutaiFiles) -> None:
    """Raises ConfigError for parts of a checkpoint that the format of Transformers has no place for."""
    lost = [key for key in ("tts_config", "stt_config") if getattr(files, key)]
    lost += ["lora_name"] if files.lora_weights is not None else []
    lost += [] if files.model_type == "moshi" else [f"model_type {files.model_type!r}"]
    if lost:
        raise ConfigError(f"the format of Transformers has no place for {', '.join(lost)}")


def feature_extractor_values(config: MimiConfig) -> dict[str, Any]:
    """`preprocessor_config.json`: how the codec wants its audio."""
    return {
        "chunk_length_s": None,
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": config.channels,
        "overlap": None,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": config.sample_rate,
    }


def _to_kyutai(files: TransformersFiles, place: Source, folder: Path) -> None:
    config, mimi_config = files.lm_config, files.mimi_config
    if config is None:
        raise CheckpointError(
            f"{place.name}: a codec alone; Kyutai's format is that of a language model with one"
        )
    if files.tokenizer is None:
        raise CheckpointError(f"{place.name}: no sentencepiece model in it, which Kyutai's format needs")
    mimi, lm = _skeletons(mimi_config, config)
    stored = read_stored(files.weights)
    lm_pairings = moshi_pairings(config)
    codec_pairings = mimi_pairings(mimi.state_dict(), mimi_config.transformer, CODEC_PREFIX)
    wanted = to_theirs(lm_pairings, lm.state_dict()) | to_theirs(codec_pairings, mimi.state_dict())
    check_tensors(wanted, stored)
    codec = to_ours(codec_pairings, stored.tensors)
    make_folder(folder)
    write_tensors(
        folder / MIMI_NAME, dict(_kyutai_tensor(mimi, name, tensor) for name, tensor in codec.items())
    )
    write_tensors(folder / LM_NAME, to_ours(lm_pairings, stored.tensors))
    copy_file(files.tokenizer, folder / files.tokenizer.name)
    write_json(folder / MIMI_CONFIG_NAME, write_kyutai_mimi_config(mimi_config))
    path = place.find(GENERATION_CONFIG_NAME)
    names: dict[str, Any] = {
        "moshi_name": LM_NAME,
        "mimi_name": MIMI_NAME,
        "mimi_config_name": MIMI_CONFIG_NAME,
        "tokenizer_name": files.tokenizer.name,
        "model_type": "moshi",
        "lm_gen_config": {} if path is None else read_generation_config(read_json(path)),
    }
    write_json(folder / "config.json", write_kyutai_config(config) | names)


def _kyutai_tensor(mimi: MimiModel, name: str, tensor: Tensor) -> tuple[str, Tensor]:
    owner = mimi.get_submodule(name.rpartition(".")[0])
    return mimi_to_kyutai(name, tensor, isinstance(owner, CausalConvTranspose1d))


def _skeletons(mimi_config: MimiConfig, config: MoshiConfig) -> tuple[MimiModel, LMModel]:
    """Both models without weights, for the names and shapes of their tensors."""
    with torch.device("meta"):
        return MimiModel(mimi_config), LMModel(config)
