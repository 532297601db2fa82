"""The format of Hugging Face Transformers: one model of all tensors, and JSON files of that library."""

from __future__ import annotations

from pathlib import Path

import torch

from moshi_agent.checkpoint.format import REFERENCES_NAME, CheckpointFiles, Origin, Reference
from moshi_agent.checkpoint.tensors import check_tensors, read_tensors, tensor_names
from moshi_agent.checkpoint.tokenizer import read_tokenizer
from moshi_agent.checkpoint.transformers.config import is_transformers_config
from moshi_agent.checkpoint.transformers.files import CODEC_PREFIX, TransformersFiles, locate_transformers
from moshi_agent.checkpoint.transformers.names import mimi_pairings, moshi_pairings, to_theirs
from moshi_agent.checkpoint.transformers.save import write_weights
from moshi_agent.checkpoint.transformers.write_config import (
    FEATURES_NAME,
    GENERATION_CONFIG_NAME,
    feature_extractor_values,
    write_generation_config,
    write_moshi_config,
)
from moshi_agent.checkpoint.usage import MOSHI
from moshi_agent.checkpoint.write import copy_file, write_json, write_tensors
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import AHEAD_TABLE, LMModel
from moshi_agent.models.mimi import MimiModel

TOKENIZER_NAME = "tokenizer.model"

_ADDED = ("add_bos_token", "add_eos_token")  # nothing stands before or behind the text of Moshi


class TransformersFormat:
    """See `Format`."""

    name = "transformers"

    def knows(self, origin: Origin) -> bool:
        """Implements `Format.knows`."""
        return is_transformers_config(origin.config)

    def locate(self, origin: Origin, lora: Reference | None = None) -> TransformersFiles:
        """Implements `Format.locate`."""
        if lora is not None:
            raise ConfigError("low-rank updates go with checkpoints in Kyutai's format")
        return self.locate_codec(origin)

    def locate_codec(self, origin: Origin) -> TransformersFiles:
        """Finds the whole checkpoint, for both models share their files. See `Format.locate_codec`."""
        assert origin.config_path is not None, "known by this file"
        return locate_transformers(origin.source, origin.config_path, origin.config)

    def write(self, files: CheckpointFiles, folder: Path, max_shard_size: int | str) -> None:
        """Implements `Format.write`."""
        _refuse_what_is_lost(files)
        config, mimi_config = files.read_lm_config(), files.read_mimi_config()
        if config is None:
            raise CheckpointError(f"{files.paths[0]}: a codec alone, which is not converted")
        values = write_moshi_config(config, mimi_config)
        generation = write_generation_config(files.usage.lm_gen_config, config.dep_q)
        with torch.device("meta"):
            mimi, lm = MimiModel(mimi_config), LMModel(config)
        codec, model = files.read_mimi(), files.read_lm()
        check_tensors(mimi.state_dict(), codec)
        check_tensors(lm.state_dict(), model)
        codec_pairings = mimi_pairings(codec.tensors, mimi_config.transformer, CODEC_PREFIX)
        theirs = to_theirs(moshi_pairings(config), model.tensors) | to_theirs(codec_pairings, codec.tensors)
        write_weights(folder, theirs, max_shard_size)
        types = {str(tensor.dtype).removeprefix("torch.") for tensor in model.tensors.values()}
        write_json(folder / "config.json", values | ({"dtype": types.pop()} if len(types) == 1 else {}))
        if generation:
            write_json(folder / GENERATION_CONFIG_NAME, generation)
        write_json(folder / FEATURES_NAME, feature_extractor_values(mimi_config))
        if files.tokenizer is not None:
            write_tokenizer(files.tokenizer, folder)
        if files.references is not None:
            write_tensors(
                folder / REFERENCES_NAME, {AHEAD_TABLE: read_tensors(files.references)[AHEAD_TABLE]}
            )


TRANSFORMERS = TransformersFormat()


def write_tokenizer(path: Path, folder: Path) -> None:
    """Writes the sentencepiece model, and what lets Transformers read it: `tokenizer_config.json`.

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


def _is_ahead(files: CheckpointFiles) -> bool:
    """Whether there is a table for what the model is told ahead, which Transformers can do without."""
    return files.references is not None and AHEAD_TABLE in tensor_names(files.references)


def _refuse_what_is_lost(files: CheckpointFiles) -> None:
    """Raises ConfigError for parts of a checkpoint that the format has no place for."""
    usage = files.usage
    lost = [key for key in ("tts_config", "stt_config") if getattr(usage, key)]
    lost += ["lora_name"] if files.lora_weights is not None else []
    lost += ["a table for references"] if files.references is not None and not _is_ahead(files) else []
    lost += [] if usage.model_type == MOSHI else [f"model_type {usage.model_type!r}"]
    if lost:
        raise ConfigError(f"the format of Transformers has no place for {', '.join(lost)}")
