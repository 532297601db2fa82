"""Offers over HTTP, as the example serves them: a whole call, and every way to ask for one wrongly."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

from starlette.applications import Starlette

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.origins import is_of_own_page
from moshi_agent_adapters.webrtc import webrtc_routes
from tests.adapters.server.browser import serving
from tests.adapters.server.server_calls import running_app
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
        assert answer["type"] == "answer", "a browser's `setRemoteDescription` takes it as it is"
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"))
        late = Caller()
        body = {"sdp": await late.offer()}
        status, refusal = await asyncio.to_thread(request, "POST", f"{url}/api/webrtc", body)
        assert status == 503 and refusal["error"]["code"] == "engine_full"
        await late.hang_up()

        call = f"{url}/api/webrtc/{answer['id']}"
        status, renewed = await asyncio.to_thread(request, "PATCH", call, {"sdp": await caller.offer()})
        assert status == 200 and renewed["id"] == answer["id"] and renewed["type"] == "answer"
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


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example:{port}", "Origin": "http://rebound.example:{port}"}, 403),
        ({"Host": "rebound.example"}, 403),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": ""}, 400),
        ({"Origin": "http://{host}"}, 400),  # own pages come as far as the offer
        ({"Content-Type": "application/json; charset=utf-8"}, 400),
        ({"Host": "192.0.2.4:8000", "Origin": "http://192.0.2.4:8000"}, 400),
    ],
    ids=str,
)
def test_other_pages_and_other_bodies_are_refused(url: str, headers: dict[str, str], status: int) -> None:
    host = url.partition("//")[2]
    sent = {name: value.format(host=host, port=host.partition(":")[2]) for name, value in headers.items()}
    got, answer = request("POST", f"{url}/api/webrtc", {"sdp": "v=0"}, sent)
    is_own = status == 400 and "json" in sent.get("Content-Type", "json")
    code = "forbidden" if status == 403 else "bad_offer" if is_own else "bad_request"
    assert (got, answer["error"]["code"]) == (status, code) and "accepted" in answer["error"]["message"]


def test_an_application_names_its_own_pages_or_guards_itself() -> None:
    assert is_of_own_page("voice.example", "https://voice.example", ("https://voice.example",))
    assert not is_of_own_page("voice.example", "https://other.example", ("https://voice.example",))
    assert is_of_own_page("127.0.0.1:8000", "https://other.example", ("https://other.example",))
    assert not is_of_own_page("127.0.0.1:8000", "http://other.example", ("https://other.example",))
    assert not is_of_own_page("127.0.0.1:8000", "http://127.0.0.1:8000", secure=True)


def test_browsers_are_told_which_pages_may_call() -> None:
    engine: Any = None  # nothing comes as far as a call
    app = Starlette(routes=webrtc_routes(engine, origins=("https://Other.example:443",)))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with running_app(app) as port:
        for path in ("/api/webrtc", "/api/webrtc/some-call"):
            status, headers = _answer(port, "OPTIONS", path, {"Origin": "https://other.example"} | asked)
            assert (status, headers["access-control-allow-origin"]) == (200, "https://other.example")
            assert "content-type" in headers["access-control-allow-headers"].lower()
        sent = {"Origin": "https://other.example", "Content-Type": "text/plain"}
        status, headers = _answer(port, "POST", "/api/webrtc", sent)
        assert (status, headers["access-control-allow-origin"]) == (400, "https://other.example")
        for method, refused in (("OPTIONS", 400), ("POST", 403)):
            sent = {"Origin": "http://other.example"} | asked
            status, headers = _answer(port, method, "/api/webrtc", sent)
            assert status == refused and "access-control-allow-origin" not in headers


def _answer(port: int, method: str, path: str, sent: dict[str, str]) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=sent)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}


def test_the_example_shows_its_options_and_serves_nobody() -> None:
    shown = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0 and "--port" in shown.stdout and not shown.stderr


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
