"""What the bot says as LiveKit is told of it, on hand-made events."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")

from moshi_agent import AudioChunk, BotStarted, BotStopped, Event, Interrupted, TextToken, UserStarted
from moshi_agent_adapters.livekit.bot_speech import BotSpeech
from moshi_agent_adapters.livekit.turn_gate import TurnGate

Told = list[tuple[str, int | None]]


def _at(kind: type[Event], frame: int, **fields: object) -> Event:
    return kind(frame=frame, media_s=frame * 0.08, wall_s=100 + frame * 0.08, **fields)  # pyright: ignore


def _text(frame: int, text: str) -> Event:
    return _at(TextToken, frame, text=text, token=5, aligned_frame=frame + 2)


def follow(frames: list[list[Event]], cut_before: int = -1) -> tuple[Told, list[bool], list[str]]:
    """The pieces told with their times, which frames the gate lets through, and the turns that have ended."""
    speech, gate = BotSpeech(), TurnGate()
    told: Told = []
    heard: list[bool] = []
    turns: list[str] = []
    for number, events in enumerate(frames):
        if number == cut_before and speech.cut():
            turns.append(speech.text)
        chunk = _at(AudioChunk, number, pcm=np.zeros(1920, np.float32), sample_rate=24_000)
        for event in [*events, chunk]:
            if speech.follow(event):
                turns.append(speech.text)
            deltas = []
            if isinstance(event, TextToken):
                deltas = speech.write(event)
            elif isinstance(event, AudioChunk):
                deltas, frame = speech.speak(event)
                assert frame.start_ms == 80 * number
                heard.append(gate.update(frame.frame))
            told += [(delta.text, delta.start_ms) for delta in deltas]
    return told, heard, turns


def test_pieces_wait_for_their_sound_and_the_first_begins_with_it() -> None:
    told, heard, _ = follow([[_text(0, " One")], [], [_at(BotStarted, 2)], [_text(3, " two")], []])
    assert heard == [False, False, True, True, True]
    assert told == [("One", 160), (" two", 400)]


def test_a_turn_goes_on_over_a_pause_and_ends_after_a_longer_one() -> None:
    begins = [_text(0, " One"), _at(BotStarted, 0)]
    pause = [[_at(BotStopped, 1)], [], [], [_text(4, " two"), _at(BotStarted, 4)]]
    end = [[_at(BotStopped, 5)], *[[]] * 12]
    _, heard, turns = follow([begins, *pause, *end])
    assert turns == ["One two"]
    assert heard == [True] * 15 + [False] * 3


@pytest.mark.parametrize("end", [[BotStopped, Interrupted, UserStarted], [BotStopped, UserStarted]])
def test_an_answer_right_after_a_user_who_spoke_is_a_turn_of_its_own(end: list[type[Event]]) -> None:
    frames = [
        [_text(0, " One"), _at(BotStarted, 0)],
        [_at(kind, 1) for kind in end],
        [_text(2, " Yes")],
        [_at(BotStarted, 3)],
    ]
    told, heard, turns = follow(frames)
    assert turns == ["One"]
    assert heard == [True, False, False, True]
    assert told == [("One", 0), ("Yes", 240)]


def test_a_turn_that_is_cut_is_parted_from_the_next_one_by_a_frame() -> None:
    frames = [[_text(0, " You"), _at(BotStarted, 0)], [], [_text(2, " I")], [], []]
    told, heard, turns = follow(frames, cut_before=2)
    assert turns == ["You"]
    assert heard == [True, True, False, True, True]
    assert told == [("You", 0), ("I", 240)]
