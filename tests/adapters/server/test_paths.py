"""What is said to those who come to the wrong path, or to the right one in the wrong way."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.adapters.server.server_calls import Running

SOCKETS = ["/api/chat", "/v1/live/sessions", "/v1/realtime", "/api/webrtc/call"]


@pytest.mark.parametrize("path", ["/", "/v1/live", "/live/sessions", "/page/main.js", "/v1/models"])
def test_a_websocket_at_another_path_is_told_where_they_are(server: Running, path: str) -> None:
    with pytest.raises(InvalidStatus) as error, connect(server.websocket + path, compression=None):
        pass
    assert error.value.response.status_code == 404
    message = json.loads(error.value.response.body or b"")["error"]["message"]
    assert message == f"no such path {path!r}; websockets are at {', '.join(SOCKETS)}"


@pytest.mark.parametrize("path", SOCKETS)
def test_a_plain_request_for_a_websocket_is_told_what_it_is(server: Running, path: str) -> None:
    status, headers, body = server.get(path)
    assert status == 426 and headers["upgrade"] == "websocket"
    assert f"{path} is a websocket" in json.loads(body)["error"]["message"]


def test_a_path_where_nothing_is(server: Running) -> None:
    status, _, body = server.get("/v1/chat/completions")
    assert status == 404
    assert json.loads(body)["error"]["message"] == "no such path '/v1/chat/completions'"
