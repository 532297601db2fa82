"""A translator in LiveKit's TranslationSession, by a small Hibiki with random weights: the protocol alone.

What such a model says means nothing, and how well Hibiki translates is not tested here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")
pytest.importorskip("livekit.agents.beta.translation", reason="LiveKit translates since 1.8.9")

from livekit.agents.beta.translation import TranslationSession
from livekit.agents.testing import fake_job_context
from livekit.agents.voice.events import CloseReason

from moshi_agent import ConfigError, Engine, SessionConfig
from moshi_agent_adapters.livekit.translation import Translator
from tests.adapters.livekit.livekit_calls import Loudspeaker, Microphone, question
from tests.translation_model import write_translation_checkpoint

pytestmark = pytest.mark.real_time

# A random model speaks at no level that a gate is made for.
CONFIG = SessionConfig(seed=1, silence_floor_dbfs=-190)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_translation_checkpoint(tmp_path_factory.mktemp("hibiki"))
    with Engine.load(str(folder), device="cpu", capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


async def translate(
    engine: Engine, until: set[str], played_s: float = 0.0, text: str = "What is your name?"
) -> list[Any]:
    """The events of a session, until each of these kinds has come and so much was played."""
    events: list[Any] = []
    with fake_job_context() as job:
        session: TranslationSession[None] = TranslationSession(model=Translator(engine, session=CONFIG))
        session.input.audio = microphone = Microphone()
        session.output.audio = loudspeaker = Loudspeaker()
        for name in (
            "user_state_changed",
            "user_input_transcribed",
            "translation_transcribed",
            "error",
            "close",
        ):
            session.on(name, events.append)  # pyright: ignore[reportArgumentType]
        await session.start()
        microphone.speak(question(text))
        for _ in range(1500):
            if until <= {event.type for event in events} and loudspeaker.played_s >= played_s:
                break
            await asyncio.sleep(0.02)
        assert loudspeaker.played_s >= played_s
        await session.aclose()
        job._tempdir.cleanup()  # pyright: ignore[reportPrivateUsage]
    return events


def test_what_is_said_is_told_while_it_is_said(engine: Engine) -> None:
    awaited = {"translation_transcribed", "user_state_changed"}
    events = asyncio.run(translate(engine, until=awaited, played_s=0.5))
    kinds = [event.type for event in events]
    assert "error" not in kinds
    said = [event for event in events if event.type == "translation_transcribed"]
    assert said[0].language == "en" and not said[0].is_final
    assert "user_state_changed" in kinds
    assert kinds[-1] == "close" and events[-1].reason == CloseReason.USER_INITIATED


def test_a_full_engine_closes_the_session_with_its_reason(engine: Engine) -> None:
    with engine.session(), engine.session():
        events = asyncio.run(translate(engine, until={"close"}))
    [error] = [event for event in events if event.type == "error"]
    assert "no row is free" in str(error.error.error)
    assert events[-1].reason == CloseReason.ERROR


def test_a_model_of_dialogue_is_refused(four_rows: Engine) -> None:
    with pytest.raises(ConfigError, match="hibiki"):
        Translator(four_rows)
