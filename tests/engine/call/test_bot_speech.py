"""What the bot says, frame by frame, as a conversation alone and an engine's call both tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moshi_agent.engine.call.bot_speech import BotSpeech
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.step.step_tensors import RowOutput
from moshi_agent.text.word_tracker import TimedWord
from tests.text_tokenizers import PADDING, shipped_tokenizer

MODEL = Model(tokenizer=shipped_tokenizer(), num_streams=5, max_delay=2, context=None, delay_s=0.0)
LOUD = np.full(1920, 0.1, np.float32)


def step(next_text: int, text: int = PADDING, audio: np.ndarray | None = LOUD) -> RowOutput:
    return RowOutput(audio=audio, text=text, next_text=next_text, healthy=True)


def the() -> int:
    return shipped_tokenizer().encode("the")[0]


def test_text_is_told_when_it_is_written_and_a_word_by_its_sound() -> None:
    """The word ends with the frame in which the output falls under the floor."""
    speech = BotSpeech(MODEL)
    assert speech.follow(step(the()), 0).text == " the"
    told = [speech.follow(step(PADDING, the() if frame == 2 else PADDING), frame) for frame in (1, 2, 3)]
    assert not any(spoken.words for spoken in told)
    assert speech.unfinished(4) == [TimedWord("the", 0.16, 0.32)]
    hold = [speech.follow(step(PADDING, audio=None), frame) for frame in range(4, 9)]
    assert [word for spoken in hold for word in spoken.words] == [TimedWord("the", 0.16, 0.64)]
    assert not hold[-1].gated.any() and not hold[-1].is_audible


def test_the_first_step_writes_for_the_frames_to_come() -> None:
    """It goes before frame 0, and what it writes is said `max_delay` frames later."""
    speech = BotSpeech(MODEL)
    assert speech.begin(step(the(), audio=None), 0) == " the"
    speech.follow(step(PADDING), 0)
    speech.follow(step(PADDING, the()), 1)
    assert speech.finish(2) == [TimedWord("the", 0.08, 0.16)]


def test_a_text_stream_that_is_late_is_moved_back() -> None:
    """And never before the beginning."""
    speech = BotSpeech(replace(MODEL, max_delay=0, delay_s=0.5))
    for frame in range(12):
        speech.follow(step(the() if frame in (2, 10) else PADDING), frame)
    assert speech.finish(12) == [TimedWord("the", 0.3, 0.46)]
