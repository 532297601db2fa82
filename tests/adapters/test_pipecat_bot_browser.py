"""The example for Pipecat's runner in a real browser: Chromium, whose microphone says a question.

Pipecat's own page loads a part of itself from the internet, so the browser visits pipecat_client.html, which
does what that page does. Everything else is real: the bot is a process, and the call goes over WebRTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from tests.adapters.browser import chromium, find_chromium
from tests.adapters.pipecat_bot_process import running_bot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = Path(__file__).with_name("pipecat_client.html")
PATIENCE_MS = 90_000
GREETING = "Hello, this is Moshi. How can I help you?"
QUESTION, ANSWER = "What is your name?", "My name is Moshi, and I am a tiny talking model."


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a bot that takes one call at once."""
    with running_bot(tmp_path, "-t", "webrtc", calls=1) as port:
        yield port


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Its visitor is greeted, then asks, and once more in case of being misheard."""
    with chromium(find_chromium(), QUESTION, tmp_path, silence_s=10.0, times=2) as browser:
        yield browser


def wait_for_words(page: Any, words: str) -> None:
    """Until the bot's words, as they are told to Pipecat's pages, are these, or have these among them."""
    page.wait_for_function("(words) => textOf('bot-output').includes(words)", arg=words, timeout=PATIENCE_MS)


def test_a_visitor_asks_and_hears_the_right_answer_and_makes_room_for_the_next(
    port: int, browser: Any
) -> None:
    page = browser.new_context(permissions=["microphone"]).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    url = f"http://localhost:{port}/client.html"
    page.route(url, lambda route: route.fulfill(path=PAGE))
    page.goto(url)

    page.evaluate("call()")
    wait_for_words(page, GREETING)
    greeting_energy = page.evaluate("energy()")
    assert greeting_energy > 1e-4
    wait_for_words(page, ANSWER)
    kinds = set(page.evaluate("messages.map(({ type }) => type)"))
    assert {"bot-ready", "user-started-speaking", "bot-started-speaking", "bot-stopped-speaking"} <= kinds
    page.wait_for_function("(before) => energy().then((now) => now > 1.5 * before)", arg=greeting_energy)

    page.evaluate("hangUp()")
    page.evaluate("call()")
    wait_for_words(page, GREETING)
    page.evaluate("hangUp()")
    assert not faults
