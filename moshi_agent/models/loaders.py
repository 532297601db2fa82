"""The loaders that Moshi's users know, by their names and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.format import Reference
from moshi_agent.checkpoint.kyutai.config import MOSHI_7B, read_moshi_config
from moshi_agent.checkpoint.kyutai.files import (
    MIMI_NAME,
    MOSHI_NAME,
    MOSHI_Q8_NAME,
    TEXT_TOKENIZER_NAME,
    KyutaiFiles,
    locate_kyutai,
)
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config
from moshi_agent.checkpoint.kyutai.weights import read_kyutai_lm, read_kyutai_mimi
from moshi_agent.checkpoint.models import (
    add_references,
    build_lm,
    fill_mimi,
    ignore_early_end,
    new_lm,
    new_mimi,
)
from moshi_agent.checkpoint.sources import OnDemand, open_source
from moshi_agent.checkpoint.tensors import reading_device, tensor_names
from moshi_agent.checkpoint.tokenizer import read_tokenizer
from moshi_agent.models.lm import REFERENCES_TABLE, LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.packing_on_use import pack_on_use

SAMPLE_RATE = 24_000
FRAME_RATE = 12.5
DEFAULT_REPO = "kyutai/moshiko-pytorch-bf16"

__all__ = [
    "DEFAULT_REPO",
    "FRAME_RATE",
    "MIMI_NAME",
    "MOSHI_NAME",
    "MOSHI_Q8_NAME",
    "SAMPLE_RATE",
    "TEXT_TOKENIZER_NAME",
    "CheckpointInfo",
    "get_mimi",
    "get_moshi_lm",
]


@dataclass
class CheckpointInfo(KyutaiFiles):
    """The files of a checkpoint in Kyutai's format, and the models they make."""

    @staticmethod
    def from_hf_repo(
        hf_repo: str,
        moshi_weights: Reference | None = None,
        mimi_weights: Reference | None = None,
        tokenizer: Reference | None = None,
        config_path: str | Path | None = None,
        mimi_config_path: Reference | None = None,
        lora_weights: Reference | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> CheckpointInfo:
        """Finds, and fetches where it has to, the files of a checkpoint.

        Args:
            hf_repo: a repository, a folder or `tiny`, as `load_checkpoint` takes them. Any name does where
                every file is given: the place is opened for what is not.
            moshi_weights, mimi_weights, tokenizer, mimi_config_path, lora_weights: used instead of the
                checkpoint's own: a path, or `hf://owner/name/file`.
            config_path: used instead of the checkpoint's `config.json`.

        Raises:
            CheckpointError: a file that is missing, cannot be fetched, or is no JSON file.
            ConfigError: a configuration with an unknown key.
        """
        given = (moshi_weights, mimi_weights, tokenizer, config_path)
        is_whole = all(file is not None for file in given)
        files = locate_kyutai(
            OnDemand(hf_repo, revision, token) if is_whole else open_source(hf_repo, revision, token),
            token,
            moshi_weights=moshi_weights,
            mimi_weights=mimi_weights,
            tokenizer=tokenizer,
            config_path=None if config_path is None else Path(config_path),
            mimi_config_path=mimi_config_path,
            lora_weights=lora_weights,
        )
        return CheckpointInfo(**vars(files))

    def get_mimi(self, device: torch.device | str = "cpu") -> MimiModel:
        """Builds the codec, with as many codebooks as the language model uses."""
        return get_mimi(self.mimi_weights, self.mimi_config, device, self.num_codebooks)

    def get_moshi(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        load_weight: bool = True,
        fuse_lora: bool = False,
        lm_kwargs_overrides: Mapping[str, Any] | None = None,
    ) -> LMModel:
        """Builds the language model; with random weights unless `load_weight`."""
        model = get_moshi_lm(
            self.moshi_weights if load_weight else None,
            self.lm_config,
            device,
            dtype,
            self.lora_weights,
            fuse_lora,
            lm_kwargs_overrides,
        )
        if load_weight and self.references not in (None, self.moshi_weights):
            add_references(model, self.references)
        if self.usage.kind_of(model.config) == "translator":
            ignore_early_end(model)
        return model

    def get_text_tokenizer(self) -> SentencePieceProcessor:
        """Raises CheckpointError where the file is no sentencepiece model."""
        return read_tokenizer(self.tokenizer)


def get_mimi(
    filename: str | Path | None,
    mimi_config: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    num_codebooks: int = 8,
) -> MimiModel:
    """Builds Mimi from a file in Kyutai's format, or with random weights where `filename` is None.

    On a CPU it packs a copy of its weights when it is first used without gradients, if the file has them in
    float32; `MimiModel.pack` does so at once, and lets go of the plain ones.

    Raises:
        ConfigError, CheckpointError: see `moshi_agent.errors`.
    """
    config = read_mimi_config(mimi_config)
    if filename is None:
        model = new_mimi(config, str(device))
    else:
        stored = read_kyutai_mimi(config, Path(filename), reading_device(device))
        is_mapped = all(tensor.dtype == torch.float32 for tensor in stored.tensors.values())
        model = fill_mimi(config, stored, str(device))
        if is_mapped:
            pack_on_use(model)
    model.set_num_codebooks(num_codebooks)
    return model


def get_moshi_lm(
    filename: str | Path | None,
    lm_kwargs: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    lora_weights: str | Path | None = None,
    fuse_lora: bool = False,
    lm_kwargs_overrides: Mapping[str, Any] | None = None,
) -> LMModel:
    """Builds the language model from a file in Kyutai's format, with random weights where `filename` is None.

    Raises:
        ConfigError, CheckpointError: see `moshi_agent.errors`.
    """
    if lm_kwargs_overrides:
        lm_kwargs = {**(MOSHI_7B if lm_kwargs is None else lm_kwargs), **lm_kwargs_overrides}
    config = read_moshi_config(lm_kwargs)
    if filename is None:
        return new_lm(config, str(device), dtype)
    stored = read_kyutai_lm(config, Path(filename), reading_device(device))
    lora_path = None if lora_weights is None else Path(lora_weights)
    model = build_lm(config, stored, str(device), dtype, lora_path, fuse_lora)
    if REFERENCES_TABLE in tensor_names(Path(filename)):
        add_references(model, Path(filename))
    return model
