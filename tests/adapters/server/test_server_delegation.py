"""Something is looked up in the middle of a call, by clients that exist already and by a language model.

The recogniser knows one word, so what is asked for is always the same; the endpoint of the language model is
one of this machine.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("openai", reason="the openai package is not installed")

import openai

from moshi_agent import ConfigError, Engine
from moshi_agent_adapters.server import Server, ServerConfig
from moshi_agent_adapters.server.backend import BackendConfig
from tests.adapters.language_model import Decide, LanguageModelEndpoint, by_tool, language_model
from tests.adapters.server.server_calls import Running, running
from tests.adapters.server.server_clients import paced, question
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = pytest.mark.real_time

CLIENTS = Path(__file__).parent / "clients"
ANSWER = "I am a computer program with a voice."
APOLOGY = "I like to talk."
FOUND = "program"
PATIENCE_S = 90.0  # for a question, its answer and what is looked up in between
TOOL = {
    "type": "function",
    "name": "what_are_you",
    "description": "Says what it is.",
    "parameters": {"type": "object", "properties": {"language": {"type": "string"}}},
}
Event = Any
React = Callable[[Any, Event], Any]  # to an event, over a connection; returns whether the call may end


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    with _engine(folder):  # all servers here share it
        yield folder


def _engine(recogniser: Path) -> Engine:
    return Engine.load("tiny", device="cpu", capacity=1, transcriber=str(recogniser), admit_by_time=False)


@contextmanager
def _serving(recogniser: Path, **config: Any) -> Iterator[Running]:
    with running(_engine(recogniser), ServerConfig(apology=APOLOGY, **config)) as server:
        yield server


@contextmanager
def _with_model(
    recogniser: Path, decide: Decide, **config: Any
) -> Iterator[tuple[Running, LanguageModelEndpoint]]:
    with language_model(decide) as endpoint:
        backend = BackendConfig(url=endpoint.url, model="m", request_s=2.0)
        with _serving(recogniser, backend=backend, **config) as server:
            yield server, endpoint


def _talk(
    server: Running, delegation: dict[str, Any], expected: str, react: React | None = None
) -> list[Event]:
    """Asks with OpenAI's package until the bot has said the words; returns all events."""

    async def ask() -> list[Event]:
        events, text = list[Event](), ""
        client = openai.AsyncOpenAI(api_key="unused", base_url=f"{server.http}/v1")
        async with client, client.live.connect() as live, asyncio.timeout(PATIENCE_S):
            await live.session.start(session={"model": "gpt-live-1", "delegation": delegation})

            async def speak() -> None:
                async for chunk in paced(question("What is your name?")):
                    pcm = (chunk * 32767).astype("<i2").tobytes()
                    await live.session.input_audio.append(audio=base64.b64encode(pcm).decode())

            speaking = asyncio.create_task(speak())
            async for event in live:
                events.append(event)
                is_over = react is not None and await react(live, event)
                if event.type == "session.output_transcript.delta":
                    text += event.delta
                if is_over or expected in text:
                    speaking.cancel()
                    return events
        raise AssertionError(f"the server has ended the call: {text}")

    return asyncio.run(ask())


def _answer(output: str) -> str:
    return f"I am a computer {output} with a voice."


async def _run_tool(live: Any, event: Event) -> None:
    """What an application does that has a tool."""
    if event.type != "response.event" or event.event["type"] != "response.output_item.done":
        return
    item = event.event["item"]
    if item["type"] == "function_call":
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": FOUND}
        await live.response.item.create(item=output)
        await live.response.create()


def test_a_language_model_answers_with_a_tool_of_the_client(recogniser: Path) -> None:
    decide = by_tool("what_are_you", {"language": "en"}, _answer)
    delegation = {
        "type": "responses",
        "responses": {"model": "gpt-5", "tools": [TOOL], "instructions": "Hm."},
    }
    with _with_model(recogniser, decide) as (server, endpoint):
        events = _talk(server, delegation, ANSWER, _run_tool)
    kinds = [event.event["type"] for event in events if event.type == "response.event"]
    assert kinds[:3] == ["response.created", "response.output_item.done", "response.completed"]
    created = next(event for event in events if event.type == "session.delegation.created")
    assert created.delegation.target == "responses"
    assert endpoint.asked[0]["model"] == "m"
    assert endpoint.asked[0]["tools"][0]["function"]["name"] == "what_are_you"
    users = [message["content"] for message in endpoint.asked[0]["messages"] if message["role"] == "user"]
    assert set(" ".join(users).split()) == {"the"}


@pytest.mark.parametrize(
    "answer", [500, 30.0, "你好世界", b"{}"], ids=["fails", "hangs", "foreign", "garbage"]
)
def test_a_language_model_that_is_of_no_use_is_an_apology(
    recogniser: Path, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    delegation = {"type": "responses", "responses": {"model": "gpt-5"}}
    with _with_model(recogniser, lambda body: answer) as (server, _):
        events = _talk(server, delegation, APOLOGY)
    infos = [event.code for event in events if event.type == "info"]
    assert "delegation_failed" in infos
    assert "has no answer" in caplog.text or "is not spoken" in caplog.text


@pytest.mark.slow
def test_an_essay_is_cut_short(recogniser: Path) -> None:
    essay = " ".join([ANSWER] * 40)
    delegation = {"type": "responses", "responses": {"model": "gpt-5"}}
    with _with_model(recogniser, lambda body: essay) as (server, _):
        events = _talk(server, delegation, ANSWER)
    assert any(event.type == "session.delegation.created" for event in events)


def test_a_client_answers_by_itself(recogniser: Path) -> None:
    async def comment(live: Any, event: Event) -> None:
        if event.type == "session.delegation.created":
            await live.session.commentary.append(content=ANSWER, delegation_id=event.delegation.id)

    with _serving(recogniser, delegate="turns") as server:
        events = _talk(server, {"type": "client"}, ANSWER, comment)
    created = next(event for event in events if event.type == "session.delegation.created")
    assert created.delegation.target == "client"
    assert any(event.type == "session.commentary.appended" for event in events)


@pytest.mark.slow
def test_a_client_that_answers_twice_is_heard_in_the_order_of_its_answers(recogniser: Path) -> None:
    """What comes after the answer goes on with it; an answer to a request that is over is refused instead."""
    more = "I can count to five."

    async def comment_twice(live: Any, event: Event) -> None:
        if event.type == "session.delegation.created" and event.delegation.id == "delegation_1":
            for content in (ANSWER, more):
                await live.session.commentary.append(content=content, delegation_id=event.delegation.id)

    with _serving(recogniser, delegate="turns") as server:
        events = _talk(server, {"type": "client"}, more, comment_twice)
    said = "".join(event.delta for event in events if event.type == "session.output_transcript.delta")
    assert said.index(ANSWER) < said.index(more)


@pytest.mark.slow
def test_a_client_that_answers_nothing_is_an_apology(recogniser: Path) -> None:
    with _serving(recogniser, delegate="turns", delegation_s=1.0) as server:
        events = _talk(server, {"type": "client"}, APOLOGY)
    assert "delegation_timed_out" in [event.code for event in events if event.type == "info"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["livekit_delegation_client", "pipecat_delegation_client"])
@pytest.mark.parametrize("mode", ["client", "responses"])
def test_frameworks_that_delegate(recogniser: Path, name: str, mode: str) -> None:
    """They print what the bot says. Exit code 5 says that the client's package is not installed."""
    mark = ">> " if (name, mode) == ("pipecat_delegation_client", "client") else ""  # what is to be spoken
    decide = by_tool("what_are_you", {"language": "en"}, lambda output: mark + _answer(output))
    with _with_model(recogniser, decide, delegate="turns") as (server, endpoint):
        result = subprocess.run(
            [sys.executable, str(CLIENTS / f"{name}.py"), server.http, mode, ANSWER, endpoint.url],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S + 30,
            check=False,
        )
    if result.returncode == 5:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr + result.stdout
    assert ANSWER in result.stdout


@pytest.mark.slow
def test_an_exact_sound_is_played(recogniser: Path) -> None:
    tone = (8000 * np.sin(np.arange(24_000) / 20)).astype("<i2")
    audio, heard = base64.b64encode(tone.tobytes()).decode(), bytearray()

    async def play(live: Any, event: Event) -> bool:
        if event.type == "session.started":
            await live.session.output_audio.fixture.play(audio=audio)
        elif event.type == "session.output_audio.delta":
            heard.extend(base64.b64decode(event.delta))
        return event.type == "session.output_audio.fixture.played"

    with _serving(recogniser) as server:
        _talk(server, {"type": "client"}, ANSWER, play)
    assert tone.tobytes() in bytes(heard)


def test_a_server_that_cannot_hear_words_looks_nothing_up(four_rows: Engine) -> None:
    with pytest.raises(ConfigError, match=r"accepted: a recogniser \(--transcribe\)"):
        Server(four_rows, ServerConfig(delegate="turns"))
