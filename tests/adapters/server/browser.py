"""Chromium with a microphone that says a sample question, and a server for it to visit."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from moshi_agent.audio.files import read_audio, write_audio
from moshi_agent.questions import find_question, sample_questions

RATE_HZ = 48_000
SILENCE_BEFORE_S, SILENCE_AFTER_S = 3.0, 60.0
INSECURE_HOST = "moshi.test"  # this machine, under a name that browsers give no microphone to
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
# Lets a test look at the page's connection.
KEEP_PEERS = """
window.peers = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...args) { super(...args); window.peers.push(this); }
};
"""
ENERGY = """async () => {
  const stats = [...(await window.peers.at(-1).getStats()).values()];
  return stats.find((s) => s.type === "inbound-rtp" && s.kind === "audio").totalAudioEnergy;
}"""
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """The browser; skips the test where there is none."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    try:
        import playwright  # noqa: F401
    except ImportError:
        path = None
    if path is None:
        pytest.skip("needs Chromium (apt-get install chromium) and Playwright (pip install playwright)")
    return path


@contextmanager
def chromium(
    path: str, question: str | Path, folder: Path, *, silence_s: float = SILENCE_BEFORE_S, times: int = 1
) -> Iterator[Any]:
    """The browser. Its microphone is silent for a while once it is opened, then asks the question.

    Args:
        question: the words of a sample question, or a recording of another one.
        silence_s: before the question.
        times: how often both are repeated, for those who may mishear it.
    """
    from playwright.sync_api import sync_playwright

    is_sample = isinstance(question, str)
    path_of_it = find_question(question, sample_questions()).path if is_sample else question
    said = read_audio(path_of_it, RATE_HZ)
    before, after = (np.zeros(int(s * RATE_HZ), np.float32) for s in (silence_s, SILENCE_AFTER_S))
    microphone = folder / "microphone.wav"
    write_audio(microphone, np.concatenate([*[before, said] * times, after]), RATE_HZ)
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        "--autoplay-policy=no-user-gesture-required",
        "--disable-features=WebRtcHideLocalIpsWithMdns",
        f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serves an application on a free port of this machine; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started, "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://localhost:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
