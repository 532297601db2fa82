"""A recogniser's tokens as text with its times in the audio: 0 and 3 are padding, a frame is 80 ms."""

from __future__ import annotations

import json

import pytest

from moshi_agent import ConfigError
from moshi_agent.text.timed_reader import TimedReader
from moshi_agent.text.word_tracker import TimedWord
from moshi_agent.transcription import Pause, PauseConfig, TimedPiece
from tests.text_tokenizers import END_OF_PADDING, PADDING, byte_tokenizer

QUIET = (0.0, 0.0, 0.0, 0.0)


def token(piece: str) -> int:
    number = byte_tokenizer().PieceToId(piece)
    assert number not in (END_OF_PADDING, PADDING)
    return number


THE, CAT, SAT = (token(f"\u2581{word}") for word in ("the", "cat", "sat"))


def reader(delay_s: float = 0.5, start_s: float = 0.0, **pauses: float) -> TimedReader:
    return TimedReader(byte_tokenizer(), delay_s, start_s, PauseConfig(**pauses))  # pyright: ignore[reportArgumentType]


def test_a_piece_is_timed_by_the_audio_it_is_about() -> None:
    """Written after frame 9 was heard, it stands in frame 10 of the text, which is 0.5 s behind the audio."""
    heard = reader().read(9, THE, QUIET)
    assert heard.piece == TimedPiece(" the", pytest.approx(10 * 0.08 - 0.5))
    assert reader(delay_s=0.5, start_s=-0.3).read(9, THE, QUIET).piece == TimedPiece(" the", 0.0)


def test_a_word_lasts_until_the_next_begins_or_a_second() -> None:
    tokens = [END_OF_PADDING, THE, PADDING, END_OF_PADDING, CAT, *[PADDING] * 20]
    told, follow = [], reader(delay_s=0.16)
    for frame, number in enumerate(tokens):
        told += [(frame, word) for word in follow.read(frame, number, ()).words]
    assert told == [
        (4, TimedWord("the", 0.0, 0.24)),
        (17, TimedWord("cat", 0.24, 1.24)),
    ]


def test_the_last_word_is_told_at_the_end() -> None:
    follow = reader(delay_s=0.0)
    follow.read(0, THE, ())
    follow.read(1, PADDING, ())
    assert follow.finish(2) == [TimedWord("the", 0.08, 0.24)]
    assert follow.finish(2) == []


def _pauses(follow: TimedReader, steps: list[tuple[int, float]], head: int = 2) -> list[tuple[int, Pause]]:
    """What is told of (token, probability of a pause), frame by frame."""
    told = []
    for frame, (number, probability) in enumerate(steps):
        heads = [0.0] * 4
        heads[head] = probability
        heard = follow.read(frame, number, heads)
        told += [] if heard.pause is None else [(frame, heard.pause)]
    return told


def test_a_pause_is_told_once_when_it_has_been_likely_for_three_frames() -> None:
    steps = [(THE, 0.1), (PADDING, 0.9), (PADDING, 0.2), *[(PADDING, 0.8)] * 10]
    assert _pauses(reader(), steps) == [(5, Pause(pytest.approx(0.48), 0.8))]


def test_a_pause_before_anything_was_said_is_none() -> None:
    assert _pauses(reader(), [(PADDING, 0.99)] * 20) == []


def test_text_that_is_older_than_the_pause_does_not_make_another() -> None:
    """The words come half a second after the sound, the pause does not."""
    late = [(THE, 0.9), (PADDING, 0.9), (PADDING, 0.9), (CAT, 0.9), *[(PADDING, 0.9)] * 8]
    assert [frame for frame, _ in _pauses(reader(delay_s=0.5), late)] == [2]
    news = [*late, (SAT, 0.1), *[(PADDING, 0.9)] * 3]
    assert [frame for frame, _ in _pauses(reader(delay_s=0.5), news)] == [2, 15]


def test_the_horizon_chooses_the_head() -> None:
    steps = [(THE, 0.9)] * 4
    assert _pauses(reader(horizon_s=0.5), steps, head=0)
    assert not _pauses(reader(horizon_s=0.5), steps, head=1)


def test_a_model_without_heads_tells_no_pauses() -> None:
    follow = reader()
    assert all(follow.read(frame, THE, ()).pause is None for frame in range(20))


@pytest.mark.parametrize("wrong", [{"horizon_s": 1.5}, {"threshold": 1.0}, {"hold_frames": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        PauseConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_it_goes_on_elsewhere() -> None:
    steps = [
        (THE, 0.1),
        (PADDING, 0.9),
        (PADDING, 0.9),
        (PADDING, 0.9),
        (PADDING, 0.9),
        (CAT, 0.0),
        (PADDING, 0.9),
    ]
    for cut in range(len(steps)):
        here, there = reader(), reader()
        for frame, (number, probability) in enumerate(steps):
            if frame == cut:
                there.load(json.loads(json.dumps(here.save())))
            heads = (0.0, 0.0, probability, 0.0)
            expected = here.read(frame, number, heads)
            if frame >= cut:
                assert there.read(frame, number, heads) == expected
        assert there.finish(len(steps)) == here.finish(len(steps))
