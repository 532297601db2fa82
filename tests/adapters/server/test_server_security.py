"""Who is let in, over real connections to an application with nothing behind its guard."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

import click
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from moshi_agent import ConfigError
from moshi_agent.cli.serve import serve
from moshi_agent.cli.whole_text import WholeText
from moshi_agent_adapters.origins import cors
from moshi_agent_adapters.server import ServerConfig
from moshi_agent_adapters.server.log_format import without_secrets
from moshi_agent_adapters.server.security import Guard
from moshi_agent_adapters.server.sign_in import Cookies
from tests.adapters.server.server_calls import running_app

TOKEN = "correct-horse-battery"


async def _page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("in")


async def _socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


@contextmanager
def _guarded(**config: object) -> Iterator[int]:
    app = Starlette(
        routes=[Route("/", _page), Route("/deep/page", _page), WebSocketRoute("/socket", _socket)],
        middleware=[*cors(config.get("origins", ())), Middleware(Guard, config=ServerConfig(**config))],  # pyright: ignore
    )
    with running_app(app) as port:
        yield port


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    """Of an application on this machine, without tokens."""
    with _guarded() as port:
        yield port


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """Of an application with tokens, which a page at example.org may use."""
    with _guarded(tokens=("another-token", TOKEN), origins=("https://example.org",)) as port:
        yield port


def _get(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    return _ask("GET", port, path, **headers)


def _ask(
    method: str, port: int, path: str = "/", sent: str = "", **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, sent or None, names)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def _socket_status(port: int, query: str = "", **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with connect(f"ws://127.0.0.1:{port}/socket{query}", additional_headers=names) as websocket:
            assert websocket.recv() == "in"
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_without_tokens_this_machine_is_let_in(open_port: int) -> None:
    assert _get(open_port)[0] == 200
    assert _socket_status(open_port) == 101


def test_a_page_of_the_server_itself_is_let_in(open_port: int) -> None:
    assert _get(open_port, Origin=f"http://127.0.0.1:{open_port}")[0] == 200
    assert _socket_status(open_port, Origin=f"http://127.0.0.1:{open_port}") == 101


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://[", ""])
def test_a_page_from_elsewhere_is_not(open_port: int, origin: str) -> None:
    assert _get(open_port, Origin=origin)[0] == 403
    assert _socket_status(open_port, Origin=origin) == 403


def test_a_name_from_elsewhere_that_points_here_is_not(open_port: int) -> None:
    """DNS rebinding: page and host agree, and neither is this machine's."""
    host = f"evil.example:{open_port}"
    assert _get(open_port, Host=host, Origin=f"http://{host}")[0] == 403
    assert _get(open_port, Host=host)[0] == 403


@pytest.mark.parametrize("path", ["/", "/deep/page", "/nowhere"])
def test_every_path_needs_the_token(closed_port: int, path: str) -> None:
    status, headers, body = _get(closed_port, path)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert "token" in body
    assert TOKEN not in body
    assert _get(closed_port, path, Authorization=f"Bearer {TOKEN}")[0] == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "Bearer", "ä" * 30])
def test_another_token_opens_nothing(closed_port: int, token: str) -> None:
    header = f"Bearer {token}".encode().decode("latin-1")
    assert _get(closed_port, Authorization=header)[0] == 401
    assert _socket_status(closed_port, Authorization=header.strip()) == 401


def test_websockets_take_the_token_as_a_header_or_in_the_query(closed_port: int) -> None:
    assert _socket_status(closed_port) == 401
    assert _socket_status(closed_port, Authorization=f"bearer {TOKEN}") == 101
    assert _socket_status(closed_port, f"?token={TOKEN}") == 101
    assert _socket_status(closed_port, f"?worker_auth_id={TOKEN}") == 101
    assert _socket_status(closed_port, "?token=wrong-token") == 401


def test_a_browser_gets_a_cookie_for_the_token_and_an_address_without_it(closed_port: int) -> None:
    status, _, body = _get(closed_port, Accept="text/html")
    assert status == 401
    assert "<form method" in body
    status, headers, _ = _get(closed_port, f"/deep/page?a=1&token={TOKEN}", Accept="text/html")
    assert status == 303
    assert headers["location"] == "/deep/page?a=1"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    pair = cookie.partition(";")[0]
    assert _get(closed_port, Cookie=pair)[0] == 200
    assert _socket_status(closed_port, Cookie=pair, Origin=f"http://127.0.0.1:{closed_port}") == 101


def test_a_cookie_does_not_help_a_page_from_elsewhere(closed_port: int) -> None:
    assert _get(closed_port, Cookie=f"moshi_agent_token={TOKEN}")[0] == 401
    _, headers, _ = _get(closed_port, f"/?token={TOKEN}", Accept="text/html")
    pair = headers["set-cookie"].partition(";")[0]
    assert TOKEN not in pair
    assert _socket_status(closed_port, Cookie=pair, Origin="https://evil.example") == 403
    assert _socket_status(closed_port, Cookie=pair, Origin="https://example.org") == 101


def test_a_cookie_ends_and_cannot_be_made_up() -> None:
    cookies = Cookies(("open sesame",))
    value = cookies.give(1000.0)
    assert cookies.opens(value, 1001.0)
    assert not cookies.opens(value, 1000.0 + 31 * 24 * 3600)
    assert Cookies(("open sesame",)).opens(value, 1001.0), "another replica knows it"
    assert not Cookies(("open barley",)).opens(value, 1001.0)
    for other in (None, "", ".", "x", "9" + value, value + "0", value.replace(".", ""), "ä.ä"):
        assert not cookies.opens(other, 1001.0)


def test_wrong_tokens_are_told_of_and_slowed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "moshi_agent.server"), _guarded(tokens=(TOKEN,)) as port:
        began = time.monotonic()
        assert _get(port)[0] == 401
        assert not caplog.records
        assert _get(port, Authorization="Bearer wrong-token")[0] == 401
        assert time.monotonic() - began >= 0.5
        (warning,) = [one for one in caplog.records if one.name == "moshi_agent.server"]
        assert warning.getMessage() == "a wrong token from 127.0.0.1"


def test_the_page_says_that_a_token_was_wrong(closed_port: int) -> None:
    assert "wrong" not in _get(closed_port, Accept="text/html")[2]
    status, _, body = _get(closed_port, "/?token=another", Accept="text/html")
    assert status == 401
    assert "That token was wrong" in body


def _sign_in(port: int, sent: str, path: str = "/") -> tuple[int, dict[str, str], str]:
    kind = "application/x-www-form-urlencoded"
    return _ask("POST", port, path, sent, Accept="text/html", Content_Type=kind)


def test_the_form_brings_the_token_in_its_body(closed_port: int) -> None:
    page = _get(closed_port, "/deep/page?a=1", Accept="text/html")[2]
    assert '<form method="post">' in page
    status, headers, _ = _sign_in(closed_port, f"token=+{TOKEN}%0A", "/deep/page?a=1&token=old")
    assert status == 303
    assert headers["location"] == "/deep/page?a=1"
    pair = headers["set-cookie"].partition(";")[0]
    assert _get(closed_port, "/deep/page", Cookie=pair)[0] == 200


@pytest.mark.parametrize(
    "sent", ["", "token=", "token=wrong-token", f"tok={TOKEN}", f"token={TOKEN}" * 500, "&" * 99]
)
def test_a_form_without_the_token_gets_the_form_again(closed_port: int, sent: str) -> None:
    status, headers, body = _sign_in(closed_port, sent)
    assert status == 401
    assert "set-cookie" not in headers
    assert "That token was wrong" in body
    assert TOKEN not in body


def test_a_form_of_a_page_elsewhere_signs_nobody_in(closed_port: int) -> None:
    kind = "application/x-www-form-urlencoded"
    headers = {"Accept": "text/html", "Content_Type": kind, "Origin": "https://evil.example"}
    assert _ask("POST", closed_port, "/", f"token={TOKEN}", **headers)[0] == 403


def test_the_scheme_of_an_allowed_origin_counts(closed_port: int, open_port: int) -> None:
    bearer = f"Bearer {TOKEN}"
    assert _get(closed_port, Authorization=bearer, Origin="https://example.org")[0] == 200
    for origin in (
        "http://example.org",
        "ftp://example.org",
        "https://example.org:444",
        "https://example.org.evil",
    ):
        assert _get(closed_port, Authorization=bearer, Origin=origin)[0] == 403
    assert _get(open_port, Origin=f"ftp://127.0.0.1:{open_port}")[0] == 403


def test_a_page_that_came_over_tls_is_no_page_that_came_without() -> None:
    app = Starlette(
        routes=[Route("/", _page)], middleware=[Middleware(Guard, config=ServerConfig(no_auth=True))]
    )
    with running_app(app, proxy_headers=True, forwarded_allow_ips="127.0.0.1") as port:
        secure = {"Host": "moshi.test", "X_Forwarded_Proto": "https"}
        assert _get(port, Origin="https://moshi.test", **secure)[0] == 200
        assert _get(port, Origin="http://moshi.test", **secure)[0] == 403
        # Behind a proxy that says nothing of TLS, a page may have come over it.
        assert _get(port, Host="moshi.test", Origin="https://moshi.test")[0] == 200


def test_a_page_of_an_allowed_origin_may_read_answers(closed_port: int, open_port: int) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    status, headers, _ = _ask("OPTIONS", closed_port, "/", Origin="https://example.org", **asked)
    assert status == 200
    assert headers["access-control-allow-origin"] == "https://example.org"
    assert "POST" in headers["access-control-allow-methods"]
    assert "authorization" in headers["access-control-allow-headers"].lower()
    for bearer, status in ((f"Bearer {TOKEN}", 200), ("Bearer wrong-token", 401)):
        answered, headers, _ = _get(closed_port, Origin="https://example.org", Authorization=bearer)
        assert answered == status
        assert headers["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-credentials" not in headers
    for port in (closed_port, open_port):
        for method in ("OPTIONS", "GET"):
            answered, headers, _ = _ask(method, port, "/", Origin="https://evil.example", **asked)
            assert answered in (400, 403)
            assert "access-control-allow-origin" not in headers


def test_the_way_back_never_leads_elsewhere(closed_port: int) -> None:
    _, headers, _ = _get(closed_port, f"//evil.example/?token={TOKEN}", Accept="text/html")
    assert headers["location"].startswith("/")
    assert not headers["location"].startswith("//")


def test_security_headers_are_on_every_answer(open_port: int, closed_port: int) -> None:
    for port in (open_port, closed_port):
        for path in ("/", "/nowhere"):
            _, headers, _ = _get(port, path)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'self'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_page_is_alone_with_its_windows_where_browsers_allow_it() -> None:
    """On plain http from another machine the header is void, and Chromium logs an error."""
    name = "cross-origin-opener-policy"
    with _guarded(no_auth=True) as port:
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert _get(port, Host=host)[1][name] == "same-origin"
        for host in (f"moshi.test:{port}", "192.0.2.7", ""):
            assert name not in _get(port, Host=host)[1]


def test_behind_a_proxy_with_tls_it_is_alone_too() -> None:
    app = Starlette(
        routes=[Route("/", _page)], middleware=[Middleware(Guard, config=ServerConfig(no_auth=True))]
    )
    with running_app(app, proxy_headers=True, forwarded_allow_ips="127.0.0.1") as port:
        _, headers, _ = _get(port, Host="moshi.test", X_Forwarded_Proto="https")
        assert headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.real_time
def test_wrong_tokens_take_as_long_wherever_they_differ() -> None:
    """The digests of all tokens are compared to their ends: no early difference ends the comparison."""
    guard = Guard(Starlette(), ServerConfig(tokens=(TOKEN, "another-token")))
    opens = vars(Guard)["_opens"]

    def seconds(token: str) -> float:
        rounds: list[float] = []
        for _ in range(300):
            start = time.perf_counter()
            opens(guard, token)
            rounds.append(time.perf_counter() - start)
        return sorted(rounds)[len(rounds) // 2]

    far, near = seconds("x" * len(TOKEN)), seconds(TOKEN[:-1] + "x")
    assert near < 2 * far
    assert far < 2 * near


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_any_other_host_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, tokens=(TOKEN,)).host == host
    assert ServerConfig(host=host, no_auth=True).host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]", "a.localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServerConfig(host=host).tokens == ()


def test_tokens_that_can_be_guessed_and_origins_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 characters"):
        ServerConfig(tokens=("short",))
    for origin in (
        "example.org",
        "ftp://example.org",
        "https://example.org/",
        "https://example.org:x",
        "https://",
    ):
        with pytest.raises(ConfigError, match="origin"):
            ServerConfig(origins=(origin,))


@pytest.mark.parametrize(
    "token", [" " * 8, "\t" * 9, " correct-horse", "pässwörter", "correct\nhorse", "\ufeffcorrect"]
)
def test_tokens_that_no_header_can_hold_are_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        ServerConfig(tokens=(token,))
    assert ServerConfig(tokens=("correct horse battery",)).tokens


def test_a_variable_holds_one_token() -> None:
    seen: list[tuple[str, ...]] = []

    @click.command()
    @click.option("--token", "tokens", multiple=True, envvar="MOSHI_AGENT_TOKEN", type=WholeText())
    def show(tokens: tuple[str, ...]) -> None:
        seen.append(tokens)

    CliRunner().invoke(show, [], env={"MOSHI_AGENT_TOKEN": "correct horse battery"})
    CliRunner().invoke(show, ["--token", "a b", "--token", "c"])
    assert seen == [("correct horse battery",), ("a b", "c")]
    option = next(one for one in serve.params if one.name == "tokens")
    assert isinstance(option.type, WholeText)


@pytest.mark.parametrize(
    "line",
    [
        '127.0.0.1:5 - "WebSocket /api/chat?token=SECRET&a=1" [accepted]',
        "< GET /api/chat?worker_auth_id=SECRET HTTP/1.1",
        "< Authorization: Bearer SECRET",
        "< Cookie: moshi_agent_token=SECRET",
    ],
)
def test_no_token_is_written_into_the_log(line: str) -> None:
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 0, "%s", (line,), None)
    assert without_secrets(record)
    assert "SECRET" not in record.getMessage()
    plain = logging.LogRecord("any", logging.INFO, "", 0, "what did he say? yes", None, None)
    assert without_secrets(plain)
    assert plain.getMessage() == "what did he say? yes"


def test_tokens_are_not_shown() -> None:
    assert TOKEN not in repr(ServerConfig(tokens=(TOKEN,)))
