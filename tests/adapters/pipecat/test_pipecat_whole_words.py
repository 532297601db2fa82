"""Pieces of text joined into words."""

from __future__ import annotations

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from moshi_agent_adapters.pipecat.whole_words import WholeWords


def words_of(pieces: list[str]) -> list[tuple[str, int]]:
    """What comes out, and in which frame, where each frame writes a piece, or "" for none."""
    words, found = WholeWords(), []
    for frame, piece in enumerate(pieces):
        found += [(words.add(piece, frame), frame)] if piece else []
        found += [(words.complete_by(frame), frame)]
    return [(word, frame) for word, frame in found if word]


def test_a_word_is_complete_when_another_begins() -> None:
    assert words_of([" a", " t", "iny", " model"]) == [(" a", 1), (" tiny", 3)]


def test_a_word_is_complete_a_frame_after_its_last_piece() -> None:
    assert words_of([" Mo", "shi", ".", "", "", " How", ""]) == [(" Moshi.", 3), (" How", 6)]


def test_what_has_come_of_a_word_can_be_taken() -> None:
    words = WholeWords()
    words.add(" Mo", 0)
    assert words.take() == " Mo"
    assert words.take() == words.complete_by(5) == ""
