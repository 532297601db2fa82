"""The example as a whole worker of LiveKit's, called through its TCP console."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")
pytest.importorskip("livekit.protocol.agent_pb.agent_session", reason="LiveKit's console has changed")

from aiohttp import web

from tests.adapters.livekit.console_peer import ConsolePeer, console
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = pytest.mark.real_time

EXAMPLE = Path(__file__).parents[3] / "examples" / "livekit_agent.py"
GREETING = "Hello, this is Moshi. How can I help you?"
ANSWER = "My name is Moshi, and I am a tiny talking model."
BAKER = "I am the baker. How can I help you?"


def _tool(name: str, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": f"call_{name}", "type": "function", "function": function}]}


@asynccontextmanager
async def backend(*deltas: dict[str, Any]) -> AsyncIterator[tuple[str, list[Any]]]:
    """An OpenAI-compatible server that gives one answer after the other, and then says nothing."""
    answers, asked = list(deltas), list[Any]()

    async def complete(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        delta = answers.pop(0) if answers else {"content": ""}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part, end in ((delta, None), ({}, "tool_calls" if "tool_calls" in delta else "stop")):
            choice = {"index": 0, "delta": part, "finish_reason": end}
            chunk = {"id": "one", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            await response.write(f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        await runner.cleanup()


def test_a_console_that_is_called_in_another_way_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is that of a command line with an unknown argument."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    async def call() -> None:
        async with console(EXAMPLE, {}):
            raise AssertionError("nobody has called")

    with pytest.raises(pytest.skip.Exception, match="called in another way"):
        asyncio.run(call())


@pytest.mark.slow
def test_the_example_greets_and_answers_and_ends_in_good_order() -> None:
    async def call() -> ConsolePeer:
        async with console(EXAMPLE, {"MOSHI_CALLS": "1"}) as peer:
            await peer.until(lambda: len(peer.said) >= 1)
            peer.ask("What is your name?")
            await peer.until(lambda: len(peer.said) >= 2)
        return peer

    peer = asyncio.run(call())
    assert peer.said == [("assistant", GREETING), ("assistant", ANSWER)]
    assert not peer.errors


@pytest.mark.slow
def test_the_examples_backend_uses_a_tool_and_hands_over(tmp_path: Path) -> None:
    """The recogniser knows one word, which is enough for a turn of the user."""
    transcriber = str(write_sparing_checkpoint(tmp_path / "stt"))
    steps = _tool("opening_hours", day="Monday"), _tool("call_the_baker")

    async def call() -> tuple[ConsolePeer, list[Any]]:
        async with backend(*steps) as (url, asked):
            environment = {"MOSHI_CALLS": "1", "MOSHI_TRANSCRIBER": transcriber, "MOSHI_BACKEND_URL": url}
            async with console(EXAMPLE, environment) as peer:
                peer.ask("Thank you very much.")
                await peer.until(lambda: ("assistant", BAKER) in peer.said)
        return peer, asked

    peer, asked = asyncio.run(call())
    users = [text for who, text in peer.said if who == "user"]
    assert users and set(" ".join(users).split()) == {"the"}
    assert peer.tools[0] == ("opening_hours", "closed") and peer.tools[1][0] == "call_the_baker"
    assert peer.hand_offs == 2  # the first one is to the waiter
    offered = {tool["function"]["name"] for tool in asked[0]["tools"]}
    assert offered == {"opening_hours", "call_the_baker"}
    told = [message["role"] for message in asked[1]["messages"]]
    assert told[0] == "system" and told[-2:] == ["assistant", "tool"]
