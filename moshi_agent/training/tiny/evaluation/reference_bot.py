"""A checkpoint that is given references: a row for each caller, one frame at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.models.lm import LMModel
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.training.tiny.evaluation.bot import Rows, TextRow


class ReferenceBot:
    """Generates as an engine does, with a token of a reference in every frame of every row.

    Args:
        lm: the checkpoint's language model, with a table for references.
        greedy: takes the best token everywhere; else samples as the checkpoint advises.
    """

    def __init__(
        self, checkpoint: Checkpoint, lm: LMModel, rows: int, *, greedy: bool = False, seed: int = 0
    ) -> None:
        self._mimi = checkpoint.mimi
        self._generator = LMGen(lm, use_sampling=not greedy, seed=seed, **checkpoint.lm_gen_config)
        self._generator.streaming_forever(rows)
        self._state = self._mimi.init_state(rows)
        self._begun = False

    @torch.inference_mode()
    def step(self, user: Rows, references: Tensor) -> tuple[Rows, TextRow]:
        """Gives every row a frame of sound, [rows, FRAME_SAMPLES], and a reference token, [rows]."""
        latent = self._mimi.encode_latent(torch.from_numpy(user)[:, None], self._state, None)
        codes = self._mimi.quantizer.encode(latent)  # [rows, K, 1]
        if not self._begun:
            # The model's own first step reads initial tokens only; heard twice, the first frame is not lost.
            self._generator.step(codes)
            self._begun = True
        tokens = self._generator.step(codes, references=references)
        assert tokens is not None
        return self._decode(tokens[:, 1:]), tokens[:, 0, 0].numpy().copy()

    def _decode(self, codes: Tensor) -> Rows:
        """[rows, dep_q, 1] -> [rows, samples]; a row with codes that mean nothing is silent."""
        codes = codes[:, : self._mimi.num_codebooks]
        valid = ((codes >= 0) & (codes < self._mimi.cardinality)).flatten(1).all(1)
        mask = None if bool(valid.all()) else valid
        audio = self._mimi.decode_codes(codes.clamp(0, self._mimi.cardinality - 1), self._state, mask)[:, 0]
        return torch.where(valid[:, None], audio, 0).numpy().astype(np.float32)
