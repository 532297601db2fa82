"""The inner monologue: the tokens that Kyutai's interleaver gives, and what holds of any words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from moshi_agent.training.stereo.alignments import MAIN_SPEAKER, Alignment
from moshi_agent.training.stereo.interleaver import Crowded, Interleaver

GOLDEN = Path(__file__).parents[2] / "golden" / "stereo"
RATE_HZ = 12.5


@cache
def _tokenizer() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(GOLDEN / "tokenizer.model"))


def _interleaver(crowded: Crowded = "drop") -> Interleaver:
    return Interleaver(tokenizer=_tokenizer(), frame_rate_hz=RATE_HZ, crowded=crowded)


def _alignments(words: list[Any]) -> list[Alignment]:
    return [Alignment(word, *times, speaker) for word, times, speaker in words]


CASES: list[dict[str, Any]] = json.loads((GOLDEN / "interleaver.json").read_text())


@pytest.mark.parametrize("shift", [False, True])
def test_the_tokens_are_those_of_kyutais_interleaver(shift: bool) -> None:
    interleaver = _interleaver("shift" if shift else "drop")
    cases = [case for case in CASES if case["shift"] == shift]
    assert len(cases) > 60
    for case in cases:
        ours = interleaver.tokens(_alignments(case["words"]), 0.0, case["frames"])
        assert ours == case["tokens"], case


def test_a_word_begins_in_its_frame_after_an_end_of_padding() -> None:
    (piece,) = _tokenizer().encode("hello")
    tokens = _interleaver().tokens([Alignment("hello", 0.4, 0.7)], 0.0, 8)
    assert tokens == [3, 3, 3, 3, 0, piece, 3, 3]


def test_what_does_not_fit_before_the_next_word_is_dropped_or_shifts_it() -> None:
    long, short = _tokenizer().encode("Schnurrbart"), _tokenizer().encode("hello")
    words = [Alignment("Schnurrbart", 0.08, 0.5), Alignment("hello", 0.24, 0.6)]
    assert len(long) > 2
    dropped = _interleaver("drop").tokens(words, 0.0, 30)
    assert dropped == [0, *long[:2], *short] + [3] * (27 - len(short))
    shifted = _interleaver("shift").tokens(words, 0.0, 30)
    assert shifted == [0, *long, *short] + [3] * (29 - len(long) - len(short))


ANY_WORDS = st.lists(
    st.builds(
        Alignment,
        st.sampled_from(["the", "hello", "Schnurrbart", "", "naïve\ncat"]),
        st.floats(-1, 12),
        st.floats(-1, 13),
        st.sampled_from([MAIN_SPEAKER, "USER"]),
    ),
    max_size=20,
)
FRAMES = st.integers(1, 80)


@given(ANY_WORDS, FRAMES, st.sampled_from(["drop", "shift"]))
def test_there_is_one_token_a_frame_whatever_the_words(
    words: list[Alignment], frames: int, crowded: Crowded
) -> None:
    tokens = _interleaver(crowded).tokens(words, 0.0, frames)
    assert len(tokens) == frames
    said = {piece for word in words for piece in _tokenizer().encode(word.word.replace("\n", " \n "))}
    assert set(tokens) <= said | set(_tokenizer().encode("\n")) | {0, 3}


@given(ANY_WORDS, FRAMES)
def test_the_words_of_others_and_their_order_change_nothing(words: list[Alignment], frames: int) -> None:
    alone = [word for word in words if word.speaker == MAIN_SPEAKER]
    expected = _interleaver().tokens(alone, 0.0, frames)
    assert _interleaver().tokens(words, 0.0, frames) == expected


@given(ANY_WORDS, FRAMES)
def test_shifting_loses_no_piece_that_has_a_frame(words: list[Alignment], frames: int) -> None:
    kept = [
        word
        for word in sorted(words, key=lambda word: word.start_s)
        if 0 <= word.start_s < frames / RATE_HZ
        and word.end_s > word.start_s
        and word.speaker == MAIN_SPEAKER
        and "\n" not in word.word
    ]
    pieces = [piece for word in kept for piece in _tokenizer().encode(word.word)]
    tokens = _interleaver("shift").tokens(kept, 0.0, frames)
    written = [token for token in tokens if token not in (0, 3)]
    assert written == pieces[: len(written)]
    assert len(written) == len(pieces) or tokens[-1] not in (0, 3)


@given(ANY_WORDS, st.integers(0, 100), st.integers(1, 40))
def test_a_crop_has_the_tokens_of_the_words_that_begin_in_it(
    words: list[Alignment], first: int, frames: int
) -> None:
    start_s = first / RATE_HZ
    inside = [
        Alignment(word.word, word.start_s - start_s, word.end_s - start_s, word.speaker)
        for word in words
        if start_s <= word.start_s < start_s + frames / RATE_HZ and word.end_s > word.start_s
    ]
    expected = _interleaver().tokens([word for word in inside if word.start_s < word.end_s], 0.0, frames)
    if len(inside) == len([word for word in inside if word.start_s < word.end_s]):
        assert _interleaver().tokens(words, start_s, frames) == expected
