"""The example for Pipecat's runner in a real browser: Chromium, whose microphone says a question.

It visits Pipecat's own page, of which one part is not real: its device manager is Daily's and comes from the
internet, so pipecat_microphone.js opens the microphone instead. The bot is a process; the call is WebRTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from tests.adapters.pipecat.pipecat_bot_process import running_bot
from tests.adapters.server.browser import ENERGY, KEEP_PEERS, chromium, find_chromium

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(300)]

MICROPHONE = Path(__file__).with_name("pipecat_microphone.js")
PATIENCE_MS = 90_000
GREETING = "Hello, this is Moshi."  # and more
QUESTION, ANSWER = "What is your name?", "My name is Moshi, and I am a tiny talking model."
TRANSPORT = re.compile(r"export\{(\S+) as SmallWebRTCTransport\}")
WITH_MICROPHONE = """
class WithMicrophone extends %s {
  constructor(options) { super({ ...options, mediaManager: window.microphone }); }
}
export{WithMicrophone as SmallWebRTCTransport}"""


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


def give_microphone(route: Any) -> None:
    """Passes on a script of the page, the one that calls with our microphone."""
    response = route.fetch()
    script = TRANSPORT.sub(lambda found: WITH_MICROPHONE % found[1], response.text())
    route.fulfill(response=response, body=script)


def call(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_text("initialized", exact=True).wait_for()  # or the page hears no button
    page.get_by_role("button", name="Connect", exact=True).click()
    page.get_by_text(GREETING).wait_for()


def test_a_visitor_asks_and_reads_and_hears_the_right_answer_and_makes_room_for_the_next(
    port: int, browser: Any
) -> None:
    page = browser.new_context(permissions=["microphone"]).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(KEEP_PEERS)
    page.add_init_script(path=MICROPHONE)
    page.route("**/client/assets/*.js", give_microphone)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    url = f"http://localhost:{port}/"

    call(page, url)
    greeting_energy = page.evaluate(ENERGY)
    assert greeting_energy > 1e-4
    page.get_by_text(ANSWER).wait_for()
    assert page.evaluate(ENERGY) > 1.5 * greeting_energy
    page.get_by_role("button", name="Disconnect", exact=True).click()
    call(page, url)
    page.get_by_role("button", name="Disconnect", exact=True).click()
    assert not faults
