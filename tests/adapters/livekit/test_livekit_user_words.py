"""The user's words in an AgentSession, from the engine's own recogniser: one that knows one word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.livekit import MoshiModel, RealtimeModel
from tests.adapters.livekit.livekit_calls import Call, ScriptedLLM, calling
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = pytest.mark.real_time

ANSWER = "I am a computer program with a voice."


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    options = {"transcriber": str(folder), "admit_by_time": False, "shared": False}
    with Engine.load("tiny", device="cpu", capacity=1, **options) as engine:
        yield engine


def test_the_users_words_come_interim_and_final_and_before_the_answer(engine: Engine) -> None:
    async def talk() -> Call:
        async with calling(MoshiModel(engine, session=SessionConfig(seed=1))) as call:
            call.ask("Thank you very much.")
            await call.until(lambda: {message.role for message in call.messages} == {"user", "assistant"})
        return call

    call = asyncio.run(talk())
    heard = call.of("user_input_transcribed")
    final = next(event for event in heard if event.is_final)
    interim = [event.transcript for event in heard[: heard.index(final)] if event.transcript]
    words = final.transcript.split()
    assert set(words) == {"the"}
    assert interim == [" ".join(["the"] * count) for count in range(1, len(words) + 1)]
    by_time = sorted(call.messages, key=lambda message: message.created_at)
    assert (by_time[0].role, by_time[0].text_content) == ("user", final.transcript)


def test_the_backend_answers_what_the_user_has_said(engine: Engine) -> None:
    backend, asked = ScriptedLLM(ANSWER), list[str]()

    def delegate(text: str) -> bool:
        asked.append(text)
        return len(asked) == 1

    async def talk() -> Call:
        model = RealtimeModel(engine, backend=backend, delegate=delegate, session=SessionConfig(seed=1))
        async with calling(model) as call:
            call.ask("Thank you very much.")
            await call.until(lambda: ANSWER in call.bot_said)
        return call

    call = asyncio.run(talk())
    assert not call.of("error")
    said = [message for message in backend.asked[0].messages() if message.role == "user"]
    assert [message.text_content for message in said] == asked[:1]
