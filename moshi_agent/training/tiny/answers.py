"""What the bot can say, ready to be laid on the frame grid: its wave and its text tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from moshi_agent.training.tiny.corpus import Corpus, Utterance
from moshi_agent.training.tiny.phrases import Phrases
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, Audio, SpokenWord
from moshi_agent.training.tiny.tokenizer import END_OF_PADDING, PADDING, word_pieces

Tokens = NDArray[np.int64]  # [frames]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One spoken text. `text_tokens[0]` belongs to the frame before the answer's first frame."""

    text: str
    audio: Audio = field(repr=False)  # [frames * FRAME_SAMPLES], digital silence after the speech
    text_tokens: Tokens = field(repr=False)  # [frames + 1]
    pieces: tuple[int, ...] = field(repr=False, default=())  # of all its words

    @property
    def frames(self) -> int:
        """How many frames the speech fills."""
        return len(self.audio) // FRAME_SAMPLES


def load_answers(
    corpus: Corpus, phrases: Phrases, tokenizer: sentencepiece.SentencePieceProcessor
) -> list[Answer]:
    """All texts of `phrases.spoken`, in that order. `corpus` must hold each of them."""
    said = {utterance.item.text: utterance for utterance in corpus.of_kind("answer")}
    return [make_answer(corpus, said[text], tokenizer) for text in phrases.spoken]


def make_answer(
    corpus: Corpus, utterance: Utterance, tokenizer: sentencepiece.SentencePieceProcessor
) -> Answer:
    """What an utterance of the answer voice says, on the frame grid.

    The last frames may be silence: where a word has more pieces than frames are left.
    """
    pieces = word_pieces(tokenizer, utterance.item.text)
    frames = -(-utterance.length // FRAME_SAMPLES)
    tokens = aligned_tokens(utterance.words, pieces, frames)
    audio = np.zeros((len(tokens) - 1) * FRAME_SAMPLES, np.float32)
    audio[: utterance.length] = corpus.audio(utterance)
    flat = tuple(piece for word in pieces for piece in word)
    return Answer(text=utterance.item.text, audio=audio, text_tokens=tokens, pieces=flat)


def aligned_tokens(words: tuple[SpokenWord, ...], pieces: list[list[int]], frames: int) -> Tokens:
    """Text tokens of an answer, int64 [frames + 1] or more; index 0 is the frame before its first.

    A word's first piece lies in the frame in which the word starts, its other pieces in the frames after it,
    and a word whose frame is still taken moves to the next free one. The frame before a word holds the
    end of padding, if it would hold padding.
    """
    tokens = np.full(frames + 1, PADDING, np.int64)
    free = 1
    for word, ids in zip(words, pieces, strict=True):
        at = max(1 + int(word.start * SAMPLE_RATE_HZ) // FRAME_SAMPLES, free)
        over = max(at + len(ids) - len(tokens), 0)
        tokens = np.pad(tokens, (0, over), constant_values=PADDING)
        if tokens[at - 1] == PADDING:
            tokens[at - 1] = END_OF_PADDING
        tokens[at : at + len(ids)] = ids
        free = at + len(ids)
    return tokens
