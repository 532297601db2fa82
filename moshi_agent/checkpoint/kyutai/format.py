"""Kyutai's format: `config.json`, a file for the language model, one for the codec, and a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moshi_agent.checkpoint.format import REFERENCES_NAME, CheckpointFiles, CodecFiles, Origin, Reference
from moshi_agent.checkpoint.kyutai.config import MOSHI_7B, write_moshi_config
from moshi_agent.checkpoint.kyutai.files import MIMI_NAME as PUBLISHED_MIMI_NAME
from moshi_agent.checkpoint.kyutai.files import KyutaiFiles, locate_kyutai
from moshi_agent.checkpoint.kyutai.mimi_config import read_codec_config, write_mimi_config
from moshi_agent.checkpoint.kyutai.names import mimi_to_kyutai
from moshi_agent.checkpoint.kyutai.save import LM_NAME, MIMI_CONFIG_NAME, MIMI_NAME
from moshi_agent.checkpoint.kyutai.weights import read_kyutai_mimi
from moshi_agent.checkpoint.sources import resolve
from moshi_agent.checkpoint.tensors import Stored, check_tensors, read_json, read_tensors
from moshi_agent.checkpoint.write import copy_file, make_folder, write_json, write_tensors
from moshi_agent.config import MimiConfig
from moshi_agent.errors import CheckpointError
from moshi_agent.models.lm import AHEAD_TABLE, REFERENCES_TABLE, LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.conv import CausalConvTranspose1d


class KyutaiFormat:
    """See `Format`."""

    name = "kyutai"

    def knows(self, origin: Origin) -> bool:
        """Takes everything: the first repositories have nothing by which they are told."""
        return True

    def locate(self, origin: Origin, lora: Reference | None = None) -> KyutaiFiles:
        """Implements `Format.locate`."""
        files = locate_kyutai(origin.source, origin.token, config_path=origin.config_path, lora_weights=lora)
        if lora is not None and files.lora_weights is not None and not files.read_lm_config().lora:
            files.lm_config = (files.lm_config or MOSHI_7B) | _lora_keys(files.lora_weights)
        return files

    def locate_codec(self, origin: Origin) -> CodecFiles:
        """Implements `Format.locate_codec`."""
        source, token, config = origin.source, origin.token, origin.config
        has_own_name = "mimi_name" not in config and source.find(MIMI_NAME) is not None
        weights = config.get("mimi_name") or (MIMI_NAME if has_own_name else PUBLISHED_MIMI_NAME)
        described = config.get("mimi_config_name") or (MIMI_CONFIG_NAME if has_own_name else None)
        values = None if described is None else read_json(resolve(str(described), source, token))
        return _Codec(resolve(str(weights), source, token), read_codec_config(values, source.name))

    def write(self, files: CheckpointFiles, folder: Path, max_shard_size: int | str) -> None:
        """Implements `Format.write`. The format has no shards."""
        config, mimi_config, tokenizer = files.read_lm_config(), files.read_mimi_config(), files.tokenizer
        if config is None:
            raise CheckpointError(
                f"{files.paths[0]}: a codec alone; Kyutai's format is that of a language model with one"
            )
        if tokenizer is None:
            raise CheckpointError(
                f"{files.paths[0].parent}: no sentencepiece model in it, which Kyutai's format needs"
            )
        with torch.device("meta"):
            mimi, lm = MimiModel(mimi_config), LMModel(config)
        codec, model = files.read_mimi(), files.read_lm()
        check_tensors(mimi.state_dict(), codec)
        check_tensors(lm.state_dict(), model)
        make_folder(folder)
        theirs = dict(_kyutai_tensor(mimi, name, tensor) for name, tensor in codec.tensors.items())
        write_tensors(folder / MIMI_NAME, theirs)
        write_tensors(folder / LM_NAME, model.tensors)
        copy_file(tokenizer, folder / tokenizer.name)
        if files.references is not None:
            tables = read_tensors(files.references)
            kept = {name: tables[name] for name in (REFERENCES_TABLE, AHEAD_TABLE) if name in tables}
            write_tensors(folder / REFERENCES_NAME, kept)
        write_json(folder / MIMI_CONFIG_NAME, write_mimi_config(mimi_config))
        names = {
            "moshi_name": LM_NAME,
            "mimi_name": MIMI_NAME,
            "mimi_config_name": MIMI_CONFIG_NAME,
            "tokenizer_name": tokenizer.name,
        }
        write_json(folder / "config.json", write_moshi_config(config) | names | _usage_keys(files))


KYUTAI = KyutaiFormat()


@dataclass(frozen=True)
class _Codec:
    """See `CodecFiles`."""

    weights: Path
    config: MimiConfig

    def read_mimi_config(self) -> MimiConfig:
        return self.config

    def read_mimi(self, device: str = "cpu") -> Stored:
        return read_kyutai_mimi(self.config, self.weights, device)


def _lora_keys(weights: Path) -> dict[str, Any]:
    """What the `config.json` beside a file of updates says about them; else their rank, and what is usual."""
    beside = weights.parent / "config.json"
    config = read_json(beside) if beside.is_file() else {}
    # The first files have the updates of all depth steps in one tensor; the others show the rank.
    tensors = read_tensors(weights, "meta")
    ranks = [
        tensor.shape[0]
        for name, tensor in tensors.items()
        if name.endswith(".lora_A.weight") and tensor.dim()
    ]
    usual = {"lora": True, "lora_rank": min(ranks, default=1)}
    return usual | {key: config[key] for key in ("lora_rank", "lora_scaling") if key in config}


def _usage_keys(files: CheckpointFiles) -> dict[str, Any]:
    """What `config.json` says about the use of the model; sections that say nothing are left out."""
    usage = files.usage
    more = {key: dict(getattr(usage, key)) for key in ("tts_config", "stt_config", "model_id")}
    said = {key: section for key, section in more.items() if section}
    return {"model_type": usage.model_type, "lm_gen_config": dict(usage.lm_gen_config)} | said


def _kyutai_tensor(mimi: MimiModel, name: str, tensor: Tensor) -> tuple[str, Tensor]:
    owner = mimi.get_submodule(name.rpartition(".")[0])
    return mimi_to_kyutai(name, tensor, isinstance(owner, CausalConvTranspose1d))
