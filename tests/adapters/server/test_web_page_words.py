"""The user's words on the web page, in a real browser: from a small recogniser that knows one word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

from moshi_agent import Engine
from moshi_agent_adapters.server import ServerConfig, create_app
from tests.adapters.server.browser import chromium, find_chromium, serving
from tests.adapters.server.test_web_page import connect, keep_picture, open_page
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    engine = Engine.load("tiny", capacity=1, admit_by_time=False, shared=False, transcriber=str(folder))
    with serving(create_app(engine, ServerConfig(no_auth=True))) as url:
        yield url
    engine.close()


def test_what_the_user_says_is_shown_in_place_of_how_long_it_took(url: str, tmp_path: Path) -> None:
    with chromium(find_chromium(), "What is your name?", tmp_path) as browser:
        page, faults = open_page(browser, url)
        connect(page)
        page.locator("#turns .user", has_text="the").first.wait_for()
        page.locator("#turns .bot").first.wait_for()
        keep_picture(page, "page-words")
        page.get_by_role("button", name="Hang up").click()
        with page.expect_download() as text:
            page.get_by_role("button", name="Download text").click()
        assert "You: the" in text.value.path().read_text()
        assert not faults
