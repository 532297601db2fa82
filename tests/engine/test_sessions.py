"""A session from outside: audio in by any way, events out by any way, and always the same conversation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from moshi_agent import (
    AudioChunk,
    BotStarted,
    BotStopped,
    Conversation,
    Ended,
    Engine,
    Event,
    Session,
    SessionConfig,
    TextToken,
    UserStarted,
    UserStopped,
    Word,
)
from moshi_agent.audio.framing import frames_of
from moshi_agent.checkpoint import Checkpoint
from tests.engine.stepped_core import audio_of, kinds_of

ANSWER = "You are very welcome."
FILE = SessionConfig(seed=1, live=False, tail_ms=2400, digital_silence=False)

Samples = NDArray[np.float32]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextToken)).strip()


def by_iteration(push: Callable[[Session], None], engine: Engine) -> list[Event]:
    with engine.session(FILE) as session:
        push(session)
        session.finish()
        return list(session)


def by_async_iteration(push: Callable[[Session], None], engine: Engine) -> list[Event]:
    async def converse() -> list[Event]:
        async with engine.session(FILE) as session:
            push(session)
            session.finish()
            return [event async for event in session]

    return asyncio.run(converse())


def by_callbacks(push: Callable[[Session], None], engine: Engine) -> list[Event]:
    events: list[Event] = []
    chunks: list[AudioChunk] = []
    tokens: list[TextToken] = []
    session = engine.open_session(FILE, on_audio=chunks.append, on_text=tokens.append, on_event=events.append)
    push(session)
    session.finish()
    assert session.wait(60)
    assert chunks == kinds_of(events, AudioChunk)
    assert tokens == kinds_of(events, TextToken)
    return events


def whole(session: Session, samples: Samples) -> None:
    session.push(samples)


def one_by_one(session: Session, samples: Samples) -> None:
    for index in range(len(samples)):
        session.push(samples[index : index + 1])


def ragged_int16(session: Session, samples: Samples) -> None:
    numbers = (samples * 32768).astype(np.int16)
    for start in range(0, len(numbers), 777):
        session.push(numbers[start : start + 777])


def as_bytes(session: Session, samples: Samples) -> None:
    data = (samples * 32768).astype("<i2").tobytes()
    for start in range(0, len(data), 1000):
        session.push(memoryview(data)[start : start + 1000])


def at_rate(rate_hz: int, session: Session, samples: Samples) -> None:
    resampled = soxr.resample(samples, 24_000, rate_hz).astype(np.float32)
    for chunk in np.array_split(resampled, 29):
        session.push(chunk, rate_hz)


WAYS: dict[str, tuple[Callable[..., list[Event]], Callable[..., None]]] = {
    "awaited, whole": (by_async_iteration, whole),
    "iterated, one by one": (by_iteration, one_by_one),
    "iterated, int16": (by_iteration, ragged_int16),
    "called back, bytes": (by_callbacks, as_bytes),
    "8 kHz": (by_iteration, partial(at_rate, 8_000)),
    "16 kHz": (by_async_iteration, partial(at_rate, 16_000)),
    "44.1 kHz": (by_iteration, partial(at_rate, 44_100)),
    "48 kHz": (by_callbacks, partial(at_rate, 48_000)),
}
SAME = [way for way in WAYS if "kHz" not in way]
RESAMPLED = [way for way in WAYS if "kHz" in way]


@pytest.fixture(scope="module")
def heard(engine: Engine, thanks: Samples) -> dict[str, list[Event]]:
    """The same question put in every way, by eight callers at once."""

    def ask(way: str) -> list[Event]:
        run, push = WAYS[way]
        return run(lambda session: push(session, thanks), engine)

    with ThreadPoolExecutor(len(WAYS)) as callers:
        return dict(zip(WAYS, callers.map(ask, WAYS), strict=True))


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint, thanks: Samples) -> Conversation:
    """The same conversation without an engine, with its sound kept as `sound`."""
    conversation = Conversation(checkpoint, seed=1)
    replies = [conversation.step(frame) for frame in frames_of(thanks, tail_s=2.4)]
    conversation.sound = np.concatenate([reply.audio for reply in replies])  # type: ignore[attr-defined]
    return conversation


@pytest.mark.parametrize("way", SAME)
def test_however_it_is_put_the_answer_is_that_of_a_conversation_alone(
    heard: dict[str, list[Event]], alone: Conversation, way: str
) -> None:
    sound: Samples = alone.sound  # type: ignore[attr-defined]
    answer = audio_of(heard[way])
    shortest = min(len(sound), len(answer))
    assert shortest >= 24_000 * 3.5
    assert np.array_equal(answer[:shortest], sound[:shortest])
    assert text_of(heard[way]) == alone.text == ANSWER
    assert [(word.text, word.start, word.end) for word in kinds_of(heard[way], Word)] == [
        (word.word, word.start, word.end) for word in alone.words
    ]


@pytest.mark.parametrize("way", RESAMPLED)
def test_at_other_rates_the_question_is_understood(heard: dict[str, list[Event]], way: str) -> None:
    assert text_of(heard[way]) == ANSWER


def test_events_come_in_order_with_frame_and_time(heard: dict[str, list[Event]]) -> None:
    for events in heard.values():
        assert all(a.frame <= b.frame and a.wall_s <= b.wall_s for a, b in pairwise(events))
        assert all(event.media_s == pytest.approx(0.08 * event.frame) for event in events)
        assert [chunk.frame for chunk in kinds_of(events, AudioChunk)] == list(range(events[-1].frame))
        assert isinstance(events[-1], Ended)
        assert events[-1].reason == "finished"
        assert sum(isinstance(event, Ended) for event in events) == 1


def test_turns_are_told(heard: dict[str, list[Event]]) -> None:
    for events in heard.values():
        turns = [type(e) for e in kinds_of(events, UserStarted, UserStopped, BotStarted, BotStopped)]
        assert turns.count(UserStarted) == turns.count(UserStopped) == 1
        assert turns[0] is UserStarted
        assert turns.count(BotStarted) == turns.count(BotStopped) == 1
        assert turns[-1] is BotStopped


def test_words_lie_where_the_bot_is_heard(heard: dict[str, list[Event]]) -> None:
    events = heard[SAME[0]]
    started, stopped = (kinds_of(events, kind)[0].media_s for kind in (BotStarted, BotStopped))
    words = kinds_of(events, Word)
    assert all(isinstance(w, Word) and w.start < w.end <= stopped + 0.001 for w in words)
    assert all(isinstance(w, Word) and w.start >= started - 0.16 for w in words)


@pytest.mark.real_time
def test_a_question_in_real_time_with_jitter_is_answered(engine: Engine, thanks: Samples) -> None:
    config = SessionConfig(seed=1, tail_ms=1600)
    draw = np.random.default_rng(0)
    session = engine.open_session(config)
    events: list[Event] = []
    reader = threading.Thread(target=lambda: events.extend(session))
    reader.start()
    started = time.monotonic()
    sent = 0
    while sent < len(thanks):
        time.sleep(max(0.0, started + sent / 24_000 + draw.uniform(0, 0.05) - time.monotonic()))
        count = int(draw.integers(200, 3000))
        session.push(thanks[sent : sent + count])
        sent += count
    session.finish()
    assert session.wait(30)
    reader.join()
    assert text_of(events) == ANSWER
    assert isinstance(events[-1], Ended)
    assert events[-1].reason == "finished"


def test_the_engine_tells_what_its_model_is(engine: Engine) -> None:
    """The sampling it advises is that of its `config.json`."""
    model = engine.model
    assert (model.name, model.model_type, model.kind) == ("tiny", "moshi", "dialogue")
    assert model.context_s == 160 / 12.5
    assert (model.sampling.temp, model.sampling.top_k, model.sampling.greedy) == (0.2, 20, False)
