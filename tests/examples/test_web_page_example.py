"""`examples/web_page.html` in a real browser, whose microphone asks a question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from moshi_agent import Engine
from moshi_agent_adapters.webrtc import webrtc_routes
from tests.adapters.server.browser import chromium, find_chromium, serving

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_MS = 90_000


def test_the_page_asks_and_shows_the_answer(tmp_path: Path) -> None:
    engine = Engine.load("tiny", capacity=1, admit_by_time=False, shared=False)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with engine:
            yield

    pages = Mount("/", StaticFiles(directory=EXAMPLES))
    app = Starlette(routes=[*webrtc_routes(engine), pages], lifespan=lifespan)
    with serving(app) as url, chromium(find_chromium(), "What is your name?", tmp_path) as browser:
        page = browser.new_context(permissions=["microphone"]).new_page()
        page.set_default_timeout(PATIENCE_MS)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{url}/web_page.html?server=")
        page.get_by_role("button", name="Call", exact=True).click()
        page.locator("#said", has_text="My name is Moshi").wait_for()
        page.get_by_role("button", name="Hang up").click()
        assert page.get_by_role("button", name="Call", exact=True).is_visible()
        page.goto(f"{url}/web_page.html?server=http://localhost:1")
        page.get_by_role("button", name="Call", exact=True).click()
        page.locator("#said", has_text="No call").wait_for()
        assert not faults
