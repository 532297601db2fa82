"""Takes docs/web-page.png: a call on the page, with a spoken question and two asked by button.

    python -m tests.adapters.server.web_page_picture [--tries 3]

The machine should be quiet.

Of several tries the one with the least delay from mouth to ear is kept, and its figures are printed.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from moshi_agent import Engine
from moshi_agent_adapters.server import ServerConfig, create_app
from tests.adapters.server.browser import chromium, find_chromium, serving

PICTURE = Path(__file__).parents[3] / "docs" / "web-page.png"
SIZE = {"width": 1180, "height": 800}
ASKED = "What is your name?"  # by the microphone
QUESTIONS = {"Tell me a joke.": "other buffer", "What is the capital of France?": "Paris"}
PATIENCE_MS = 90_000


def take(browser: Any, url: str) -> tuple[float, str, bytes]:
    """One call: its delay from mouth to ear in ms, its figures, and its picture."""
    page = browser.new_context(permissions=["microphone"], viewport=SIZE).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.get_by_role("button", name="Call", exact=True).click()
    page.locator("#turns .bot", has_text="talking model").wait_for()
    for question, answer in QUESTIONS.items():
        page.locator("#bot-doing", has_text="silent").wait_for()
        page.get_by_role("button", name=question).click()
        page.locator("#turns .bot", has_text=answer).wait_for()
    figures = page.locator("#figures").inner_text()
    delay_ms = re.sub(r"\D", "", page.locator("#figure-delay").inner_text())
    picture = page.screenshot()
    page.context.close()
    return float(delay_ms), figures, picture


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes the picture of the web page.")
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    engine = Engine.load("tiny", capacity=2, process=True, shared=False)
    taken: list[tuple[float, str, bytes]] = []
    with serving(create_app(engine, ServerConfig())) as url:
        for _ in range(options.tries):
            with (
                tempfile.TemporaryDirectory() as folder,
                chromium(find_chromium(), ASKED, Path(folder)) as browser,
            ):
                taken.append(take(browser, url))
    _, figures, picture = min(taken, key=lambda one: one[0])
    PICTURE.write_bytes(picture)
    print(figures)


if __name__ == "__main__":
    main()
