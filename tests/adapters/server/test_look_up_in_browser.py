"""Somebody asks on the page for something that is in a database, and hears it: the README's own command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pocketsphinx")

from tests.adapters.server.browser import ENERGY, KEEP_PEERS, chromium, find_chromium
from tests.adapters.server.server_process import serving

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(300)]
EXAMPLE = Path(__file__).parents[3] / "examples" / "look_up.py"
PATIENCE_MS = 90_000


def test_an_order_is_asked_for_and_found_on_the_page(tmp_path: Path) -> None:
    options = ("--look-up", f"{EXAMPLE}:look_up", "--transcribe", f"{EXAMPLE}:Hearing")
    faults: list[str] = []
    question = tmp_path / "question.wav"
    subprocess.run(["flite", "-voice", "slt", "-t", "Where is my order?", "-o", question], check=True)
    with (
        serving("--filler", "One moment, please.", *options) as server,
        chromium(find_chromium(), question, tmp_path) as browser,
    ):
        page: Any = browser.new_context(permissions=["microphone"]).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(KEEP_PEERS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.url)
        page.get_by_role("button", name="Call", exact=True).click()
        page.locator("#turns .note", has_text="Found: Your lamp will arrive on Friday.").wait_for()
        page.locator("#turns .bot", has_text="Your lamp will arrive on Friday").wait_for()
        assert page.evaluate(ENERGY) > 1e-4
        page.screenshot(path=tmp_path / "looked-up.png")
        page.get_by_role("button", name="Hang up").click()
    assert not faults
