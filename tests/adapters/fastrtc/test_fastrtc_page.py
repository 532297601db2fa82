"""The example's page in Chromium, over FastRTC's own JavaScript."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastrtc", reason="needs FastRTC: pip install moshi-agent[fastrtc]")

from tests.adapters.server.browser import ENERGY, KEEP_PEERS, chromium, find_chromium

EXAMPLE = Path(__file__).parents[3] / "examples" / "fastrtc_app.py"
PATIENCE_S = 120.0


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_SERVER_PORT": str(port)}
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, str(EXAMPLE), "--calls", "1"]
        process = subprocess.Popen(command, env=os.environ | offline, stdout=log, stderr=log)
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
            while not _is_there(url):
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _is_there(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.real_time
def test_the_page_speaks_and_shows_what_is_said(url: str, tmp_path: Path) -> None:
    with chromium(find_chromium(), "What is your name?", tmp_path) as browser:
        page = browser.new_page()
        page.add_init_script(KEEP_PEERS)
        page.goto(url)
        page.get_by_role("button", name="start stream").click()
        words = page.get_by_label("Moshi")
        end = time.monotonic() + PATIENCE_S
        while "tiny talking model." not in words.input_value():
            assert time.monotonic() < end, f"it says {words.input_value()!r}"
            page.wait_for_timeout(100)
        assert page.evaluate(ENERGY) > 1e-3
