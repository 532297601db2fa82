"""The model as many callers at once meet it: a row for each of them, one frame at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.training.tiny.tokenizer import BEGIN

Rows = NDArray[np.float32]  # [rows, FRAME_SAMPLES]
TextRow = NDArray[np.int64]  # [rows]


class Bot(Protocol):
    """What callers talk to."""

    def step(self, user: Rows) -> tuple[Rows, TextRow]:
        """One frame from every caller; the frame of sound and the text token that each gets in reply."""
        ...


class ModelBot:
    """A checkpoint, driven as `moshi_agent.Conversation` drives it, for several rows.

    Args:
        greets: for each row, whether the bot is asked to speak first.
        greedy: takes the best token everywhere; else samples as the checkpoint advises.
    """

    def __init__(
        self, checkpoint: Checkpoint, greets: Sequence[bool], *, greedy: bool = False, seed: int = 0
    ) -> None:
        if checkpoint.lm is None:
            raise ConfigError(f"{checkpoint.name} is a codec alone; accepted: a codec with a language model")
        self._mimi, self._lm = checkpoint.mimi, checkpoint.lm
        self._generator = LMGen(checkpoint.lm, use_sampling=not greedy, seed=seed, **checkpoint.lm_gen_config)
        self._generator.streaming_forever(len(greets))
        self._state = self._mimi.init_state(len(greets))
        self._greets: Sequence[bool] | None = greets  # until the first frame

    @torch.inference_mode()
    def step(self, user: Rows) -> tuple[Rows, TextRow]:
        """See `Bot.step`."""
        latent = self._mimi.encode_latent(torch.from_numpy(user)[:, None], self._state, None)
        codes = self._mimi.quantizer.encode(latent)  # [rows, K, 1]
        if self._greets is not None:
            # The model's own first step reads initial tokens only; heard twice, the first frame is not lost.
            self._generator.step(codes, forced_tokens=self._greeting_tokens(self._greets))
            self._greets = None
        tokens = self._generator.step(codes)
        assert tokens is not None
        return self._decode(tokens[:, 1:]), tokens[:, 0, 0].numpy().copy()

    def _greeting_tokens(self, greets: Sequence[bool]) -> Tensor:
        forced = torch.full((len(greets), 1 + self._lm.dep_q, 1), UNGENERATED_TOKEN)
        forced[torch.tensor(greets), 0] = BEGIN
        return forced

    def _decode(self, codes: Tensor) -> Rows:
        """[rows, dep_q, 1] -> [rows, samples]; a row with codes that mean nothing is silent."""
        codes = codes[:, : self._mimi.num_codebooks]
        valid = ((codes >= 0) & (codes < self._mimi.cardinality)).flatten(1).all(1)
        mask = None if bool(valid.all()) else valid
        audio = self._mimi.decode_codes(codes.clamp(0, self._mimi.cardinality - 1), self._state, mask)[:, 0]
        return torch.where(valid[:, None], audio, 0).numpy()
