"""Signing in with a real browser, and a page of another origin that asks the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from moshi_agent_adapters.origins import cors
from moshi_agent_adapters.server import ServerConfig
from moshi_agent_adapters.server.security import Guard
from tests.adapters.server.browser import chromium, find_chromium
from tests.adapters.server.server_calls import running_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOKEN = "correct-horse-battery"
ASK = """async (url) => {
  const headers = { Authorization: "Bearer correct-horse-battery", "Content-Type": "application/json" };
  try {
    const answer = await fetch(url, { method: "POST", headers, body: "{}" });
    return await answer.text();
  } catch (error) {
    return "nothing";
  }
}"""


async def _page(request: Request) -> Response:
    return HTMLResponse(f"<title>in</title>{request.method} {request.url.query}")


def _app(origins: tuple[str, ...]) -> Starlette:
    config = ServerConfig(tokens=(TOKEN,), origins=origins)
    return Starlette(
        routes=[Route("/", _page, methods=["GET", "POST"])],
        middleware=[*cors(origins), Middleware(Guard, config=config)],
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(find_chromium(), "What is your name?", tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def test_a_person_signs_in_by_the_form(browser: Any) -> None:
    with running_app(_app(())) as port:
        page = browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{port}/?a=1")
        page.get_by_label("Token").fill("wrong-token")
        page.get_by_role("button").click()
        page.get_by_text("That token was wrong").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button").click()
        page.wait_for_function("document.title === 'in'")
        assert page.inner_text("body").strip() == "GET a=1"
        assert page.url == f"http://127.0.0.1:{port}/?a=1"


def test_a_page_of_an_allowed_origin_reads_answers_and_another_one_does_not(browser: Any) -> None:
    with running_app(Starlette(routes=[Route("/", _page)])) as page_port:
        own = f"http://127.0.0.1:{page_port}"
        page = browser.new_context().new_page()
        page.goto(own)
        for origins, said in (((own,), "<title>in</title>POST"), (("https://example.org",), "nothing")):
            with running_app(_app(origins)) as port:
                assert page.evaluate(ASK, f"http://127.0.0.1:{port}/").strip() == said
