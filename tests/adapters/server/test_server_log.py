"""What `moshi-agent serve` logs of calls and of its engine, as a process: the facts stand in the lines."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from tests.adapters.server.bad_clients import chat, live
from tests.adapters.server.server_calls import wait_for
from tests.adapters.server.server_clients import rest
from tests.adapters.server.server_process import ServeProcess, serving
from tests.adapters.webrtc.webrtc_asking import request
from tests.adapters.webrtc.webrtc_peer import Caller

JSON = ("--log-level", "info", "--log-format", "json", "--overcommit", "--capacity", "2")


def rest_of_log(server: ServeProcess) -> str:
    """Ends the server; all that it has written since its address."""
    server.process.terminate()
    assert server.process.stdout is not None
    text = server.process.stdout.read()
    assert server.process.wait(30) == 0
    return text


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def calls_that_ended(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["message"].startswith("call ended")]


async def call_from_a_page(url: str) -> None:
    """A call over WebRTC that hangs up as a page does."""
    caller = Caller()
    status, answer = await asyncio.to_thread(
        request, "POST", f"{url}/api/webrtc", {"sdp": await caller.offer()}
    )
    assert status == 201, answer
    await caller.accept(answer["sdp"])
    await caller.wait_for(lambda: caller.has("stats"))
    assert (await asyncio.to_thread(request, "DELETE", f"{url}/api/webrtc/{answer['id']}"))[0] == 204
    await caller.hang_up()


@pytest.mark.real_time
def test_a_call_that_ends_says_why_and_after_how_long_over_every_protocol() -> None:
    with serving(*JSON, "--no-process") as server:
        with chat(server) as connection:
            connection.send(b"\x01" + b"garbage" * 20)
            rest(connection)
        with live(server) as connection:
            connection.send(json.dumps({"type": "session.close"}))
            rest(connection)
        asyncio.run(call_from_a_page(server.url))
        lines = lines_of(rest_of_log(server))
    ended = calls_that_ended(lines)
    assert [line["over"] for line in ended] == ["kyutai", "gpt-live", "webrtc"]
    assert all(line["level"] == "INFO" for line in ended)
    assert [line["reason"].split(",")[0] for line in ended] == [
        "bad_message",
        "hung_up",
        "the caller hung up",
    ]
    assert "Ogg" in ended[0]["reason"]
    for number, line in enumerate(ended, 1):
        assert line["session"] == number
        assert re.match(
            rf"call ended after \d+\.\d s \({line['over']}, session {number}\): \w", line["message"]
        )
        assert line["seconds"] > 0
    opened = [line["message"] for line in lines if re.match(r"session \d+ opened", line["message"])]
    assert opened == [f"session {number} opened, 1 live" for number in (1, 2, 3)]


@pytest.mark.real_time
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the engine's process in /proc")
@pytest.mark.slow
def test_a_killed_engine_is_told_with_its_signal_and_what_was_lost() -> None:
    with serving(*JSON) as server:
        with chat(server) as connection:
            os.kill(_engine_of(server.process.pid), signal.SIGKILL)
            rest(connection)
        wait_for(lambda: _is_ready(server.url), 120)  # it loads anew
        lines = lines_of(rest_of_log(server))
    (lost,) = [line for line in lines if line["message"].startswith("engine process lost")]
    assert lost["level"] == "ERROR"
    assert (
        "signal 9, Killed; 1 conversation lost; another one is started, 1 restart so far" in lost["message"]
    )
    assert (lost["lost"], lost["starts_again"]) == (1, True)
    (ended,) = calls_that_ended(lines)
    assert ended["reason"] == "failed, the engine was lost"
    (told,) = [line for line in lines if line["message"].startswith("session 1 ended")]
    assert told["reason"] == "engine_lost"
    assert [line for line in lines if "serves in place of" in line["message"]]


def _engine_of(pid: int) -> int:
    """The process that the server has spawned, beside Python's own tracker of resources."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # one for each thread
    children = [child for each in lists for child in each.read_text().split()]
    (engine,) = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return int(engine)


def _is_ready(url: str) -> bool:
    """Whether one more call would be taken. Meanwhile the server says why not."""
    status, body = request("GET", f"{url}/ready")
    assert (status, body["ready"]) in ((200, True), (503, False))
    assert body["ready"] or body["refusal"]
    return status == 200


def test_text_is_the_default_and_a_warning_comes_once() -> None:
    with serving("--no-process", "--capacity", "1", "--host", "127.0.0.1", "--insecure-no-auth") as server:
        with chat(server) as connection:
            connection.send(b"\x01" + b"garbage" * 20)
            rest(connection)
        text = rest_of_log(server)
    assert text.count("everybody who reaches this address may use it") == 1
    assert re.search(r"^\d{4}-.* WARNING moshi_agent\.server everybody", text, re.MULTILINE)
    assert "call ended" not in text  # it is no warning
