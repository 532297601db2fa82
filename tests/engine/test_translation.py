"""Live translation: an engine on a small Hibiki says what a conversation alone says, and ends as it does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from moshi_agent import (
    ConfigError,
    Conversation,
    Ended,
    Engine,
    EngineConfig,
    InputError,
    SessionConfig,
    TextToken,
    load_checkpoint,
)
from moshi_agent.audio.framing import Samples, frames_of
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.events import Event
from tests.engine.stepped_core import audio_of, kinds_of
from tests.translation_model import write_translation_checkpoint

FILE = SessionConfig(live=False, digital_silence=False)
RECORDING = Path(__file__).parents[1] / "golden" / "translation" / "run.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_translation_checkpoint(tmp_path_factory.mktemp("hibiki"))


@pytest.fixture(scope="module")
def translator(folder: Path) -> Checkpoint:
    """Packed as the engine packs it."""
    return load_checkpoint(folder, pack="auto")


@pytest.fixture(scope="module", params=[1.0, 3.0], ids=["plain", "guided"])
def coef(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(scope="module")
def translating(folder: Path, coef: float) -> Iterator[Engine]:
    with Engine.load(str(folder), capacity=3, cfg_coef=coef, admit_by_time=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def speech() -> Samples:
    return load_file(RECORDING)["speech"].astype(np.float32) / 32768


def _translate(engine: Engine, speech: Samples, config: SessionConfig = FILE) -> list[Event]:
    with engine.session(config) as session:
        session.push(speech)
        session.finish()
        return list(session)


def _text_of(events: list[Event]) -> str:
    return "".join(event.text for event in kinds_of(events, TextToken)).strip()


def test_it_is_the_translation_of_a_conversation_alone(
    translating: Engine, translator: Checkpoint, coef: float, speech: Samples
) -> None:
    """Sound, text and end, whoever else is translated meanwhile."""
    alone = Conversation(translator, cfg_coef=coef)
    replies = list(alone.stream(alone.until_done(frames_of(speech))))
    with ThreadPoolExecutor(2) as callers:
        other = callers.submit(_translate, translating, speech[: 9 * 1920])
        events = _translate(translating, speech)
        other.result()
    ended = events[-1]
    assert isinstance(ended, Ended) and ended.reason == "finished"
    assert ended.frame == len(replies)
    sound = np.concatenate([reply.audio for reply in replies])
    assert np.array_equal(audio_of(events)[: len(sound) - 1920], sound[:-1920])
    # An engine's text is ahead of the sound: it has two pieces more at its end.
    assert _text_of(events).startswith(alone.text)


def test_one_that_does_not_end_is_cut_off(translating: Engine, speech: Samples) -> None:
    config = SessionConfig(live=False, tail_ms=0, longest_tail_ms=160)
    events = _translate(translating, speech[: 5 * 1920], config)
    assert events[-1].frame == 5 + 2


@pytest.mark.real_time
def test_live_it_is_told_of_the_end_by_the_clock(folder: Path, speech: Samples) -> None:
    """Nobody pushes silence after the end: the conversation goes on by itself."""
    with Engine.load(str(folder), capacity=1, admit_by_time=False, cfg_coef=1.0) as engine:
        events = _translate(engine, speech, SessionConfig(backlog_limit_ms=2000, longest_tail_ms=2000))
    assert isinstance(events[-1], Ended) and events[-1].reason == "finished"


def test_guidance_takes_the_room_of_two(folder: Path) -> None:
    plain, guided = (
        Engine.load(str(folder), shared=False, cfg_coef=coef).capacity().row_bytes for coef in (1.0, 3.0)
    )
    assert guided > 1.3 * plain


def test_conditions_are_the_engines(folder: Path, translator: Checkpoint, speech: Samples) -> None:
    """And two engines that differ in nothing else are two."""
    bad = {"description": "bad"}
    alone = Conversation(translator, conditions=bad)
    said = np.concatenate([reply.audio for reply in alone.stream(frames_of(speech))])
    with Engine.load(str(folder), capacity=1, admit_by_time=False, conditions=bad) as engine:
        sound = audio_of(_translate(engine, speech))
    assert np.array_equal(sound[: len(said)], said)
    assert EngineConfig(conditions=bad) == EngineConfig(conditions=(("description", "bad"),))
    assert hash(EngineConfig(conditions=bad)) != hash(EngineConfig())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cfg_coef": -1.0}, ConfigError, "cfg_coef"),
        ({"cfg_coef": float("nan")}, ConfigError, "cfg_coef"),
        ({"conditions": {"mood": "sad"}}, InputError, "no condition mood"),
        ({"conditions": {"description": "fair"}}, InputError, "accepted: very_bad"),
    ],
)
def test_what_does_not_fit_shows_when_the_engine_is_loaded(
    folder: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Engine.load(str(folder), **options)


def test_another_model_takes_no_guidance() -> None:
    with pytest.raises(InputError, match="without conditions"):
        Engine.load("tiny", cfg_coef=2.0)
