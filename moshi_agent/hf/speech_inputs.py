"""The three streams of a conversation as they are given: checked, encoded, and brought together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.hf.causal_lm import check_tokens
from moshi_agent.hf.mimi import MimiModel
from moshi_agent.hf.moshi_config import MoshiConfig
from moshi_agent.hf.speech_generation import History
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.embedding import ZERO_TOKEN


class SpeechModel(Protocol):
    """What is asked of the model that the streams are for."""

    lm: LMModel
    audio_encoder: MimiModel
    config: MoshiConfig

    @property
    def device(self) -> torch.device: ...

    @property
    def num_codebooks(self) -> int: ...


@dataclass
class SpeechInputs:
    """What `forward` and `generate` are given. Codes go before audio."""

    model: SpeechModel
    input_ids: Tensor | None  # [B, T]
    user_input_values: Tensor | None  # [B, 1, samples]
    user_audio_codes: Tensor | None  # [B, K, T]
    moshi_input_values: Tensor | None  # [B, 1, samples]
    moshi_audio_codes: Tensor | None  # [B, K, T]
    inputs_embeds: Tensor | None = None  # [B, T, dim]

    def tokens(self) -> Tensor:
        """What the temporal transformer reads, [B, 1 + 2 K, T]; a stream that is not given is no token.

        Raises:
            InputError: no stream at all, or streams that do not fit together.
        """
        text, moshi, user = self._text(), self._codes("moshi"), self._codes("user")
        shape = self._common([("input_ids", text), ("moshi", moshi), ("user", user)])
        none = torch.full((shape[0], 1, shape[1]), ZERO_TOKEN, device=self.model.device)
        books = none.expand(-1, self.model.num_codebooks, -1)
        parts = (
            none if text is None else text[:, None],
            *(books if one is None else one for one in (moshi, user)),
        )
        return torch.cat(parts, dim=1)

    def history(self, begins: bool) -> History:
        """What `generate` goes on from: all three streams, or none.

        Raises:
            InputError: a stream that is missing, or lengths that do not fit.
        """
        if not self._is_given():
            return self._nothing()
        text, moshi, user = self._text(), self._codes("moshi"), self._codes("user")
        embeds = None if self.inputs_embeds is None else self.inputs_embeds.to(self.model.device)
        if moshi is None or user is None or (text is None and embeds is None):
            missing = [
                name
                for name, one in [
                    ("input_ids or inputs_embeds", embeds if text is None else text),
                    ("moshi_input_values or moshi_audio_codes", moshi),
                    ("user_input_values or user_audio_codes", user),
                ]
                if one is None
            ]
            raise InputError(f"generate: {', '.join(missing)} missing; accepted: all three streams, or none")
        steps = moshi.shape[2]
        self._common(
            [("input_ids", text), ("inputs_embeds", embeds), ("moshi", moshi), ("user", user[:, :, :steps])]
        )
        blank = self._blank(len(moshi))
        # Embeddings are taken for the whole history.
        begins = begins and embeds is None
        return History(text=text, moshi=moshi, user=user, blank=blank, begins=begins, embeds=embeds)

    @property
    def unconditional_frames(self) -> int:
        """Frames of initial tokens that the history begins with, which no codec can decode."""
        codes = self.moshi_audio_codes
        if codes is None:
            return 0
        initial = (codes == self.model.lm.card).any(dim=1).any(dim=0)  # [T]
        return int(initial.int().cumprod(dim=0).sum())

    def _is_given(self) -> bool:
        return any(getattr(self, name) is not None for name in vars(self) if name != "model")

    def _nothing(self) -> History:
        blank = self._blank(1)
        none = blank[:, :, None][:, :, :0]
        return History(text=none[:, 0], moshi=none, user=none, blank=blank, begins=True)

    def _blank(self, rows: int) -> Tensor:
        """The codes of one frame of silence, [B, K]."""
        model = self.model
        codec = model.audio_encoder.codec
        silence = torch.zeros(1, codec.channels, codec.frame_size, device=model.device)
        return model.audio_encoder.codes_of(silence, model.num_codebooks)[:, :, 0].expand(rows, -1)

    def _text(self) -> Tensor | None:
        if self.input_ids is None:
            return None
        if self.input_ids.dim() != 2:
            raise InputError(f"input_ids of shape {list(self.input_ids.shape)}; accepted: [B, T]")
        return check_tokens("input_ids", self.input_ids.to(self.model.device), self.model.config.vocab_size)

    def _codes(self, who: str) -> Tensor | None:
        """[B, K, T] of one speaker."""
        model, count = self.model, self.model.num_codebooks
        codes: Tensor | None = getattr(self, f"{who}_audio_codes")
        audio: Tensor | None = getattr(self, f"{who}_input_values")
        if codes is None:
            return None if audio is None else model.audio_encoder.codes_of(audio, count)
        if codes.dim() != 3 or codes.shape[1] != count:
            raise InputError(f"{who}_audio_codes of shape {list(codes.shape)}; accepted: [B, {count}, T]")
        return check_tokens(f"{who}_audio_codes", codes.to(model.device), model.lm.card)

    def _common(self, streams: list[tuple[str, Tensor | None]]) -> tuple[int, int]:
        """Rows and steps that all streams have."""
        shapes = dict(_shapes(streams))
        if len(set(shapes.values())) != 1:
            shown = ", ".join(f"{name} {rows} x {steps}" for name, (rows, steps) in shapes.items())
            raise InputError(
                "inputs that are not synchronised (rows x frames): "
                + (shown or "none given")
                + "; accepted: the "
                f"same of all; a frame is one token, one step of codes, or "
                f"{self.model.audio_encoder.codec.frame_size} samples"
            )
        return next(iter(shapes.values()))


def _shapes(streams: list[tuple[str, Tensor | None]]) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, one in streams:
        if one is not None:
            is_codes = one.dim() == 3 and name != "inputs_embeds"
            yield name, (one.shape[0], one.shape[2 if is_codes else 1])
