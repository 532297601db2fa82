"""What the bot can say, ready to be laid on the frame grid: its wave and its text tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from moshi_agent.training.tiny.corpus import Corpus
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

    @property
    def frames(self) -> int:
        """How many frames the speech fills."""
        return len(self.audio) // FRAME_SAMPLES


def load_answers(
    corpus: Corpus, phrases: Phrases, tokenizer: sentencepiece.SentencePieceProcessor
) -> list[Answer]:
    """All texts of `phrases.spoken`, in that order. `corpus` must hold each of them."""
    said = {utterance.item.text: utterance for utterance in corpus.of_kind("answer")}
    answers: list[Answer] = []
    for text in phrases.spoken:
        utterance = said[text]
        frames = -(-utterance.length // FRAME_SAMPLES)
        audio = np.zeros(frames * FRAME_SAMPLES, np.float32)
        audio[: utterance.length] = corpus.audio(utterance)
        tokens = aligned_tokens(utterance.words, word_pieces(tokenizer, text), frames)
        answers.append(Answer(text=text, audio=audio, text_tokens=tokens))
    return answers


def aligned_tokens(words: tuple[SpokenWord, ...], pieces: list[list[int]], frames: int) -> Tokens:
    """Text tokens of an answer, int64 [frames + 1]; index 0 is the frame before its first.

    A word's first piece lies in the frame in which the word starts, its other pieces in the frames after it,
    and a word whose frame is still taken moves to the next free one. The frame before a word holds the
    end of padding, if it would hold padding.
    """
    tokens = np.full(frames + 1, PADDING, np.int64)
    free = 1
    for word, ids in zip(words, pieces, strict=True):
        at = max(1 + int(word.start * SAMPLE_RATE_HZ) // FRAME_SAMPLES, free)
        assert at + len(ids) <= len(tokens), f"the text runs past the speech at {word.word!r}"
        if tokens[at - 1] == PADDING:
            tokens[at - 1] = END_OF_PADDING
        tokens[at : at + len(ids)] = ids
        free = at + len(ids)
    return tokens
