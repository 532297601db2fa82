"""The checkpoint's sentencepiece model, by the names that users of Transformers know."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.kyutai.files import TEXT_TOKENIZER_NAME
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.checkpoint.tokenizer import read_tokenizer
from moshi_agent.checkpoint.transformers.format import TOKENIZER_NAME, write_tokenizer
from moshi_agent.checkpoint.write import make_folder
from moshi_agent.errors import CheckpointError, ConfigError, InputError
from moshi_agent.hf.features import BatchFeature

_WORD_START = "\u2581"  # how sentencepiece marks the beginning of a word

Texts = str | Sequence[str]
Ids = Iterable[int] | torch.Tensor


class MoshiTokenizer:
    """Turns text into tokens and back. Special tokens (`<pad>`, `<unk>`, ...) may stand in the text."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises CheckpointError where the file is no sentencepiece model."""
        self.path = Path(path)
        self.model: SentencePieceProcessor = read_tokenizer(self.path)
        pieces = range(self.model.GetPieceSize())
        special = [one for one in pieces if self.model.IsControl(one) or self.model.IsUnknown(one)]
        self._special: dict[str, int] = {self.model.IdToPiece(one): one for one in special}
        # Longest first: one special token may begin another.
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(names)})")

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """Loads the tokenizer of a checkpoint.

        Raises:
            CheckpointError: there is no sentencepiece model in it, or it cannot be fetched.
        """
        place = open_source(source, revision, token)
        config = place.find("config.json")
        named = None if config is None else read_json(config).get("tokenizer_name")
        path = (
            (place.find(str(named)) if named else None)
            or place.find(TEXT_TOKENIZER_NAME)
            or place.find_tokenizer()
        )
        if path is None:
            raise CheckpointError(
                f"{place.name}: there is no sentencepiece model in it (such as {TOKENIZER_NAME})"
            )
        return cls(path)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.model` and `tokenizer_config.json`. Raises OutputError where it cannot."""
        make_folder(Path(save_directory))
        write_tokenizer(self.path, Path(save_directory))

    def __len__(self) -> int:
        return self.model.GetPieceSize()

    @property
    def vocab_size(self) -> int:
        return len(self)

    @property
    def all_special_ids(self) -> list[int]:
        return sorted(self._special.values())

    @property
    def pad_token_id(self) -> int | None:
        return self._special.get("<pad>")

    @property
    def bos_token_id(self) -> int | None:
        return self._special.get("<s>")

    @property
    def eos_token_id(self) -> int | None:
        return self._special.get("</s>")

    @property
    def unk_token_id(self) -> int:
        return self.model.unk_id()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Returns the tokens of a text. Moshi's text has no token at its beginning or end."""
        tokens: list[int] = []
        for part in self._split.split(text):
            if part in self._special:
                tokens.append(self._special[part])
            elif part:
                tokens += self.model.encode(part)
        return tokens

    def decode(
        self,
        token_ids: int | Ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Returns the text of tokens; ids that the tokenizer lacks, such as the initial one, are empty.

        Args:
            skip_special_tokens: leaves padding and the like out.
            clean_up_tokenization_spaces: accepted, and of no effect: the pieces hold their spaces.
        """
        ids = [token_ids] if isinstance(token_ids, int) else _as_list(token_ids)
        special = set(self._special.values())
        ids = [one for one in ids if 0 <= one < len(self) and not (skip_special_tokens and one in special)]
        text = ""
        for is_special, run in itertools.groupby(ids, key=special.__contains__):
            pieces = list(run)
            if is_special:
                text += "".join(map(self.model.IdToPiece, pieces))
            else:
                # The space that begins a word is left out at the beginning of a text.
                begins_word = bool(text) and self.model.IdToPiece(pieces[0]).startswith(_WORD_START)
                text += " " * begins_word + self.model.decode(pieces)
        return text

    def batch_decode(
        self,
        sequences: Iterable[Ids] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[str]:
        """Decodes each sequence as `decode` does."""
        return [self.decode(one, skip_special_tokens) for one in sequences]

    def convert_ids_to_tokens(self, ids: int | Ids) -> Any:
        """Returns the piece of each token."""
        if isinstance(ids, int):
            return self.model.IdToPiece(ids)
        return [self.model.IdToPiece(one) for one in _as_list(ids)]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Returns the token of each piece; the unknown one where there is none."""
        if isinstance(tokens, str):
            return self.model.PieceToId(tokens)
        return [self.model.PieceToId(one) for one in tokens]

    def __call__(
        self,
        text: Texts,
        padding: bool = False,
        return_tensors: str | None = None,
        padding_side: str = "left",
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` of one text or several.

        Args:
            padding: makes all as long as the longest, with padding on `padding_side`.
            return_tensors: "pt", for int64 [B, T]; None returns lists.

        Raises:
            InputError: texts of several lengths, without padding, for a tensor.
        """
        rows = [self.encode(one) for one in ([text] if isinstance(text, str) else text)]
        masks = [[1] * len(row) for row in rows]
        if padding:
            longest, filler = max(map(len, rows)), self.pad_token_id or 0
            rows = [_padded(row, longest, filler, padding_side) for row in rows]
            masks = [_padded(mask, longest, 0, padding_side) for mask in masks]
        if return_tensors is None:
            alone = isinstance(text, str)
            return BatchFeature(
                input_ids=rows[0] if alone else rows, attention_mask=masks[0] if alone else masks
            )
        if return_tensors != "pt":
            raise ConfigError(f"return_tensors={return_tensors!r}; accepted: pt")
        if len(set(map(len, rows))) > 1:
            raise InputError("texts of several lengths make no tensor; accepted: padding=True")
        return BatchFeature(
            input_ids=torch.tensor(rows, dtype=torch.long),
            attention_mask=torch.tensor(masks, dtype=torch.long),
        )


class AutoTokenizer:
    """Finds the tokenizer of a checkpoint."""

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> MoshiTokenizer:
        """Loads a tokenizer as `MoshiTokenizer.from_pretrained` does."""
        return MoshiTokenizer.from_pretrained(source, revision=revision, token=token)


def _as_list(ids: Ids) -> list[int]:
    return [int(one) for one in (ids.flatten().tolist() if isinstance(ids, torch.Tensor) else ids)]


def _padded(row: list[int], length: int, filler: int, side: str) -> list[int]:
    missing = [filler] * (length - len(row))
    return missing + row if side == "left" else row + missing
