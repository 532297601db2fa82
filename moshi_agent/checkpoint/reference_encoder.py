"""Loads what turns the text of a reference into rows for a model that takes them (MoshiRAG)."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moshi_agent.checkpoint.sources import get, open_source
from moshi_agent.checkpoint.tensors import Stored, assign_tensors, read_tensors
from moshi_agent.config import MoshiConfig, ReferenceEncoderConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.reference_encoder import ReferenceEncoder

WEIGHTS_NAME = "model.safetensors"
TOKENIZER_NAME = "tokenizer.json"


class TextEncoder:
    """Encodes the text of references: call it from a thread of its own, beside the one that takes steps.

    On a CUDA device it works on a stream of its own, so that no step of a conversation waits for it.

    Args:
        model: in evaluation mode, on the device where it is to work.
        tokenizer: a `tokenizers.Tokenizer`.
    """

    def __init__(self, model: ReferenceEncoder, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._device = model.embedder.tok_embeddings.weight.device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    @torch.inference_mode()
    def __call__(self, text: str) -> Tensor:
        """Encodes a text -> [R, row_dim] float32 on the CPU: a row for about four tokens, none for none."""
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not tokens:
            return torch.zeros(0, self._model.config.row_dim)
        with self._on_stream():
            # The copy waits for the stream, and for nothing else on the device.
            return self._model(torch.tensor(tokens, device=self._device)).float().cpu()

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def load_reference_encoder(
    config: MoshiConfig,
    *,
    source: str | None = None,
    tokenizer: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    token: str | None = None,
) -> TextEncoder:
    """Loads the encoder that a language model was trained with: 3.0 billion weights in the published one.

    Args:
        config: of the language model, which names its encoder.
        source: a folder or a repository to take instead of the one that the configuration names.
        tokenizer: the encoder's `tokenizer.json`; by default that of `source`, if it has one, or of the
            repository that the configuration names, which for the published one is Meta's, behind its terms.
        device: as PyTorch names it. On a CPU the published one takes seconds for a sentence.
        dtype: by default float32 on a CPU and bfloat16 elsewhere.
        token: of the repositories.

    Raises:
        ConfigError: a model that takes no rows of references, or the package `tokenizers` is missing.
        CheckpointError: a file that is missing, cannot be fetched, or does not fit.
    """
    described = encoder_config(config)
    opened = open_source(source or described.source, token=token)
    if tokenizer is None and source is not None:
        tokenizer = opened.find(TOKENIZER_NAME)
    read = _read_tokenizer(tokenizer, described, token)
    weights = get(opened, WEIGHTS_NAME)
    on_cpu = torch.device(device).type == "cpu"
    wanted = dtype or (torch.float32 if on_cpu else torch.bfloat16)
    with torch.device("meta"):
        model = ReferenceEncoder(described)
    # A file of several bridges has more than is needed here.
    needed = model.state_dict()
    stored = {name: one for name, one in read_tensors(weights).items() if name in needed}
    # One after the other, so that no more than one is there twice.
    assign_tensors(model, Stored(weights, stored), lambda _, one: one.to(device, wanted))
    return TextEncoder(model.eval(), read)


def encoder_config(config: MoshiConfig) -> ReferenceEncoderConfig:
    """Tells which encoder goes with a language model. Raises ConfigError where none does."""
    found = next((one.encoder for one in config.conditioners if one.encoder is not None), None)
    if found is None:
        raise ConfigError("the model takes no rows of references: no encoder goes with it")
    return found


def _read_tokenizer(given: str | Path | None, described: ReferenceEncoderConfig, token: str | None) -> Any:
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(
            'the encoder of references needs the package tokenizers: pip install "moshi-agent[references]"'
        ) from error
    path = (
        get(open_source(described.tokenizer, token=token), TOKENIZER_NAME) if given is None else Path(given)
    )
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises no type of its own
        raise CheckpointError(f"{path}: not the file of a tokenizer ({error})") from error
