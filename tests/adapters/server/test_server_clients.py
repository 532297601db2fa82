"""Clients that exist already, as their makers ship them, in conversation with the server."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from tests.adapters.server.server_calls import Running, wait_for
from tests.adapters.server.server_clients import PATIENCE_S, paced, question

pytestmark = pytest.mark.real_time

ANSWER = "My name is Moshi, and I am a tiny talking model."
CLIENTS = Path(__file__).parent / "clients"


def _int16(chunk: np.ndarray[Any, Any]) -> bytes:
    return (chunk * 32767).astype("<i2").tobytes()


def test_openais_package(server: Running) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")

    async def ask() -> tuple[str, list[str]]:
        text, kinds = "", []
        client = openai.AsyncOpenAI(api_key="unused", base_url=f"{server.http}/v1")
        async with client, client.live.connect() as live, asyncio.timeout(PATIENCE_S):
            await live.session.start(session={"model": "gpt-live-1", "instructions": "Be brief."})

            async def speak() -> None:
                async for chunk in paced(question("What is your name?")):
                    await live.session.input_audio.append(audio=base64.b64encode(_int16(chunk)).decode())

            task = None
            async for event in live:
                kinds.append(event.type)
                if event.type == "session.started":
                    task = asyncio.create_task(speak())
                if event.type == "session.output_transcript.delta":
                    text += event.delta
                    if ANSWER in text and task is not None:
                        task.cancel()
                        await live.session.close()
                        task = None
        return text, kinds

    text, kinds = asyncio.run(ask())
    assert text.strip() == ANSWER
    assert kinds[0] == "session.started"
    assert kinds[-1] == "session.closed"
    assert kinds.count("session.output_audio.delta") > 20


def test_openais_package_over_the_realtime_protocol(server: Running) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")

    async def ask() -> tuple[list[str], bytes]:
        kinds, sound = list[str](), b""
        client = openai.AsyncOpenAI(api_key="unused", base_url=f"{server.http}/v1")
        async with client, client.realtime.connect(model="gpt-realtime") as realtime:
            await realtime.session.update(session={"type": "realtime", "instructions": "Be brief."})

            async def speak() -> None:
                async for chunk in paced(question("What is your name?")):
                    audio = base64.b64encode(_int16(chunk)).decode()
                    await realtime.input_audio_buffer.append(audio=audio)

            task = asyncio.create_task(speak())
            async with asyncio.timeout(PATIENCE_S):
                async for event in realtime:
                    kinds.append(event.type)
                    if event.type == "response.output_audio.delta":
                        sound += base64.b64decode(event.delta)
                    if event.type == "response.done":
                        task.cancel()
                        assert event.response.output[0].content[0].transcript == ANSWER
                        return kinds, sound
        raise AssertionError(f"no response: {kinds}")

    kinds, sound = asyncio.run(ask())
    assert kinds[:3] == ["session.created", "session.updated", "response.created"]
    assert np.abs(np.frombuffer(sound, "<i2").astype(np.float32)).max() > 3000
    wait_for(lambda: not server.live)


def test_openais_package_lists_the_model(server: Running) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(api_key="unused", base_url=f"{server.http}/v1") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize("name", ["kyutai_client", "livekit_client", "pipecat_client"])
def test_clients_that_run_in_a_process_of_their_own(server: Running, name: str) -> None:
    """They print what the bot says. Exit code 5 says that the client's package is not installed."""
    result = subprocess.run(
        [sys.executable, str(CLIENTS / f"{name}.py"), server.http, "What is your name?", ANSWER],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S + 20,
        check=False,
    )
    if result.returncode == 5:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr + result.stdout
    assert ANSWER in result.stdout
    wait_for(lambda: not server.live)
