"""Offers over HTTP, as the example serves them: a whole call, and every way to ask for one wrongly."""

from __future__ import annotations

import asyncio
import importlib.util
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from tests.adapters.server.browser import serving
from tests.adapters.webrtc.webrtc_asking import request
from tests.adapters.webrtc.webrtc_peer import Caller

EXAMPLE = Path(__file__).parents[3] / "examples" / "webrtc_server.py"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    spec = importlib.util.spec_from_file_location("webrtc_server_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with serving(example.create_app(capacity=1)) as url:
        yield url


@pytest.mark.real_time
def test_a_call_is_begun_renewed_and_ended_over_http(url: str) -> None:
    async def talk() -> None:
        caller = Caller()
        offer = {"sdp": await caller.offer(), "options": {"seed": 1}}
        status, answer = await asyncio.to_thread(request, "POST", f"{url}/api/webrtc", offer)
        assert status == 201
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"))
        late = Caller()
        body = {"sdp": await late.offer()}
        status, refusal = await asyncio.to_thread(request, "POST", f"{url}/api/webrtc", body)
        assert status == 503 and refusal["error"]["code"] == "engine_full"
        await late.hang_up()

        call = f"{url}/api/webrtc/{answer['id']}"
        status, renewed = await asyncio.to_thread(request, "PATCH", call, {"sdp": await caller.offer()})
        assert status == 200 and renewed["id"] == answer["id"]
        await caller.accept(renewed["sdp"])
        question = read_audio(find_question("count to five", sample_questions()).path, 48_000)
        caller.microphone.play(np.concatenate([np.zeros(48_000, np.float32), question]))
        await caller.wait_for(lambda: caller.has("bot_stopped"))
        assert caller.text == "One, two, three, four, five."
        assert (await asyncio.to_thread(request, "DELETE", call))[0] == 204
        assert (await asyncio.to_thread(request, "DELETE", call))[0] == 404
        assert (await asyncio.to_thread(request, "PATCH", call, {"sdp": "v=0"}))[0] == 404
        await caller.hang_up()

    asyncio.run(asyncio.wait_for(talk(), 240))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_request"),
        (b"{", "bad_request"),
        (b"\xff\xfe", "bad_request"),
        (b"[" * 100_000, "bad_request"),
        (b"x" * 200_000, "bad_request"),
        ([], "bad_request"),
        ({}, "bad_request"),
        ({"sdp": 7}, "bad_request"),
        ({"sdp": "v=0", "options": []}, "bad_offer"),
        ({"sdp": "v=0", "options": [1]}, "bad_request"),
        ({"sdp": "v=0", "options": {"seed": "1"}}, "bad_request"),
        ({"sdp": "v=0", "options": {"seed": 2**64}}, "bad_request"),
        ({"sdp": "v=0", "options": {"model": "other"}}, "bad_request"),
        ({"sdp": "garbage"}, "bad_offer"),
        ({"sdp": "v=0\r\n" + "a=x\r\n" * 15_000}, "bad_offer"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_request_is_refused_with_what_is_accepted(url: str, body: Any, code: str) -> None:
    status, answer = request("POST", f"{url}/api/webrtc", body)
    assert status == 400 and answer["error"]["code"] == code
    assert "accepted" in answer["error"]["message"]


def test_a_page_learns_what_it_can_choose(url: str) -> None:
    status, info = request("GET", f"{url}/api/webrtc")
    assert status == 200
    options = {"greet": True, "role": False, "voices": []}
    assert info == {"model": "tiny", "ice_servers": [], "options": options}


@pytest.mark.parametrize(
    "path",
    ["/page/../security.py", "/page/%2e%2e/app.py", "/questions/..%2ftiny/config.json", "/page//etc/passwd"],
)
def test_files_cannot_be_had_from_outside_their_folder(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as refusal:
        urllib.request.urlopen(url + path, timeout=60)
    refusal.value.close()


def test_the_page_and_the_questions_are_served(url: str) -> None:
    for path, kind in [
        ("/", "text/html"),
        ("/page/main.js", "javascript"),
        ("/questions/index.json", "json"),
    ]:
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            assert kind in answer.headers["content-type"] and len(answer.read()) > 500
