"""The web page in a real browser: Chromium, whose microphone says a question, talks to the built-in model.

Screenshots are kept in the folder that MOSHI_TEST_ARTIFACTS names, or `build/screenshots` of the checkout.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

import soundfile as sf

from moshi_agent import Engine
from moshi_agent_adapters.server import ServerConfig, create_app
from tests.adapters.server.browser import (
    ENERGY,
    INSECURE_HOST,
    KEEP_PEERS,
    PHONE,
    chromium,
    find_chromium,
    serving,
)
from tests.adapters.server.server_process import serving as serving_process
from tests.adapters.server.shelf import Shelf

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(600)]
ANSWER = "My name is Moshi, and I am a tiny talking model."
PATIENCE_MS = 90_000
CHECKOUT = Path(__file__).parents[3]
# Controls and words whose text is wider than they are.
CUT_OFF = """() => [...document.querySelectorAll("button, select, h1, h2, p, dt, dd")]
  .filter((e) => e.offsetParent && e.className !== "hidden" && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.outerHTML)"""
# Another network, as the browser tells it to the page: which path its packets take after it.
RESTART_ICE = """async () => {
  const peer = window.peers.at(-1);
  const path = () => peer.sctp.transport.iceTransport.getSelectedCandidatePair().local.usernameFragment;
  const before = path();
  window.dispatchEvent(new Event("online"));
  for (let i = 0; i < 100 && path() === before; i++) await new Promise((resolve) => setTimeout(resolve, 100));
  return { changed: path() !== before, state: peer.connectionState };
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine.load("tiny", capacity=2, admit_by_time=False, shared=False)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    # `no_auth` lets the page be visited under another name than this machine's own.
    with serving(create_app(engine, ServerConfig(no_auth=True))) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(find_chromium(), "What is your name?", tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def open_page(browser: Any, url: str, **context: Any) -> tuple[Any, list[str]]:
    """A page of its own, and what goes wrong in it."""
    page = browser.new_context(permissions=["microphone"], **context).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(KEEP_PEERS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.goto(url)
    return page, faults


def faults_by_axe(page: Any) -> list[str]:
    """What axe-core finds, as its rule and the element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['target']}" for one in found for node in one["nodes"]]


def keep_picture(page: Any, name: str) -> None:
    folder = Path(os.environ.get("MOSHI_TEST_ARTIFACTS", CHECKOUT / "build" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def wait_until_free(engine: Engine, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while engine.capacity().live:
        assert time.monotonic() < deadline, "the row is still taken"
        time.sleep(0.05)


def connect(page: Any) -> None:
    page.get_by_role("button", name="Call", exact=True).click()
    page.locator('#status[data-state="connected"]').wait_for()


@pytest.mark.parametrize(
    ("name", "context"),
    [("desktop", {"viewport": {"width": 1200, "height": 860}}), ("phone", {**PHONE, "color_scheme": "dark"})],
)
def test_a_spoken_question_is_answered_on_the_page(
    browser: Any, url: str, engine: Engine, name: str, context: dict[str, Any], tmp_path: Path
) -> None:
    page, faults = open_page(browser, url, **context)
    connect(page)
    page.locator("#turns .bot", has_text=ANSWER[:-1]).wait_for()
    keep_picture(page, f"page-{name}")
    page.locator("#turns .user", has_text="spoke for").wait_for()
    assert page.evaluate(ENERGY) > 1e-4
    assert "ms" in page.locator("#figure-step").inner_text()
    width = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert width, "the page is wider than its window"
    page.get_by_role("button", name="Hang up").click()
    wait_until_free(engine)
    with page.expect_download() as text:
        page.get_by_role("button", name="Download text").click()
    assert ANSWER in text.value.path().read_text()
    with page.expect_download() as audio:
        page.get_by_role("button", name="Download audio").click()
    audio.value.save_as(tmp_path / "call.wav")
    user, bot = sf.read(tmp_path / "call.wav", always_2d=True)[0].T
    assert np.abs(user).max() > 0.02 and np.abs(bot).max() > 0.02
    assert not faults
    page.context.close()


def test_a_sample_question_needs_no_microphone_and_closing_the_tab_frees_the_row(
    browser: Any, url: str, engine: Engine
) -> None:
    page, faults = open_page(browser, url)
    page.get_by_role("button", name="How much is two plus two?").click()
    page.locator("#turns .user", has_text="two plus two").wait_for()
    page.locator("#turns .bot", has_text="Two and two make four").wait_for()
    assert page.locator("#microphone").inner_text() == "Use microphone"
    assert engine.capacity().live == 1 and not faults
    page.context.close()
    wait_until_free(engine)


def test_an_ice_restart_goes_on_with_the_call(browser: Any, url: str, engine: Engine) -> None:
    page, faults = open_page(browser, url)
    connect(page)
    assert page.evaluate(RESTART_ICE) == {"changed": True, "state": "connected"}
    page.locator("#turns .bot", has_text=ANSWER[:-1]).wait_for()
    assert not faults
    page.context.close()
    wait_until_free(engine)


def test_a_call_that_moves_goes_on_in_mid_sentence(browser: Any) -> None:
    """The server gives the call away, and takes it again when the page comes back for it."""
    engine = Engine.load("tiny", capacity=1, admit_by_time=False, shared=False)
    app, shelf = create_app(engine, ServerConfig()), Shelf()
    app.state.server.handover = shelf
    with serving(app) as url:
        page, faults = open_page(browser, url)
        page.get_by_role("button", name="Count to five.").click()
        page.locator("#turns .bot", has_text="One, two").wait_for()
        app.state.server.is_moving.set()
        while not shelf.given:
            time.sleep(0.01)
        app.state.server.is_moving.clear()
        page.locator("#turns .bot", has_text="five").wait_for()
        said = "".join(page.locator("#turns .bot").all_inner_texts())
        assert [said.count(word) for word in ("One", "two", "three", "four", "five")] == [1] * 5, said
        assert page.locator('#status[data-state="connected"]').is_visible() and not faults
        page.context.close()


def test_on_plain_http_the_page_says_what_to_do(browser: Any, url: str, engine: Engine) -> None:
    page, faults = open_page(browser, url.replace("localhost", INSECURE_HOST))
    notice = page.locator("#notice")
    notice.wait_for()
    assert "--ssl-self-signed" in notice.inner_text()
    page.get_by_role("button", name="Hello there.").click()
    page.locator("#turns .bot", has_text="nice to talk").wait_for()
    assert not faults
    page.context.close()
    wait_until_free(engine)


def test_a_full_engine_is_said_so(browser: Any, url: str, engine: Engine) -> None:
    with engine.session(), engine.session():
        page, _ = open_page(browser, url)
        page.get_by_role("button", name="Call", exact=True).click()
        page.locator("#notice", has_text="All lines are busy. Try again in a moment.").wait_for()
        assert page.get_by_role("button", name="Call", exact=True).is_enabled()
        assert page.locator("#empty").is_visible(), "what the page says of a conversation stays"
        assert page.get_by_role("button", name="Download audio").is_disabled()
        page.context.close()


def test_a_refused_call_keeps_the_conversation_before_it(browser: Any, url: str, engine: Engine) -> None:
    page, _ = open_page(browser, url)
    page.get_by_role("button", name="Hello there.").click()
    page.locator("#turns .bot").first.wait_for()
    page.get_by_role("button", name="Hang up").click()
    wait_until_free(engine)
    with engine.session(), engine.session():
        page.get_by_role("button", name="Call", exact=True).click()
        page.locator("#notice", has_text="All lines are busy").wait_for()
        assert "Hello there." in page.locator("#turns").inner_text()
        assert page.get_by_role("button", name="Download audio").is_enabled()
    page.context.close()


def test_a_server_that_is_gone_is_told_within_two_seconds(browser: Any) -> None:
    with serving_process("--no-process", "--capacity", "1") as server:
        page, _ = open_page(browser, server.url, **PHONE)
        connect(page)
        server.process.kill()
        lost = page.locator("#lost")
        lost.wait_for(timeout=2000)
        assert "Call again" in lost.inner_text()
        assert page.locator(".voice[data-speaking=true], .turn.live").count() == 0
        page.locator("#lost", has_text="The call is over").wait_for()
        keep_picture(page, "page-lost")
        page.context.close()


@pytest.mark.parametrize("context", [{"viewport": {"width": 1280, "height": 900}}, PHONE])
def test_axe_finds_nothing_to_mend(browser: Any, url: str, engine: Engine, context: dict[str, Any]) -> None:
    """Before a call, in one, and after it; and nothing moves or is cut off when it connects."""
    page, _ = open_page(browser, url, **context)
    page.locator("#questions button").first.wait_for()
    assert faults_by_axe(page) == []
    stage = page.locator(".stage").bounding_box()
    page.get_by_role("button", name="What is your name?").click()
    page.locator("#turns .bot").first.wait_for()
    page.evaluate("scrollTo(0, 0)")
    assert page.locator(".stage").bounding_box() == stage
    assert page.evaluate(CUT_OFF) == []
    assert faults_by_axe(page) == []
    page.context.close()
    wait_until_free(engine)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend_where_a_token_is_asked_for(browser: Any, scheme: Any) -> None:
    engine = Engine.load("tiny", capacity=1, shared=False)
    with serving(create_app(engine, ServerConfig(tokens=("open sesame",)))) as url:
        page = browser.new_context(color_scheme=scheme, **PHONE).new_page()
        page.goto(url)
        assert faults_by_axe(page) == []
        page.get_by_label("This server asks for a token").fill("wrong sesame")
        page.keyboard.press("Enter")
        page.get_by_text("That token was wrong").wait_for()
        assert faults_by_axe(page) == []
        keep_picture(page, f"page-token-{scheme}")
        page.context.close()


def test_a_token_is_asked_for_where_one_is_needed(browser: Any) -> None:
    engine = Engine.load("tiny", capacity=1, shared=False)
    with serving(create_app(engine, ServerConfig(tokens=("open sesame",)))) as url:
        page, _ = open_page(browser, url)
        page.get_by_label("Token").fill("open sesame")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Hello there.").wait_for()
        assert "sesame" not in page.url
        connect(page)
        page.context.close()


def test_the_page_asks_for_a_token_itself_where_only_its_requests_are_refused(browser: Any, url: str) -> None:
    def guard(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"code": "invalid_api_key", "message": "no token"}})

    page = browser.new_page()
    page.route("**/api/webrtc", guard)
    page.goto(url)
    for token in ("wrong", "sesame"):
        page.get_by_label("This server asks for a token").fill(token)
        page.get_by_role("button", name="Use it").click()
        if token == "wrong":
            page.get_by_text("does not know this token").wait_for()
    page.get_by_role("button", name="Hello there.").wait_for()
    assert not page.locator("#token-form").is_visible()
    page.close()


def test_the_page_has_names_for_everything_and_works_by_keyboard(browser: Any, url: str) -> None:
    page, _ = open_page(browser, url)
    page.locator("#questions button").first.wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, canvas, .meter")]
          .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "call"
    page.context.close()
