"""Ctrl-C ends an example, and nothing else is to be seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions

EXAMPLES = Path(__file__).parents[2] / "examples"
BEGUN_S, ENDED_S = 120, 60  # on a machine that does much else
# What each is started with, and what it says at work. `LONG` is a question and a minute of silence.
STARTED = {
    "callbacks": (["callbacks.py", "LONG", "answer.wav", "--live"], "name"),
    "audiosocket_bridge": (["audiosocket_bridge.py", "--port", "0"], "Asterisk can connect"),
    "webrtc_server": (["webrtc_server.py", "--port", "0"], "Uvicorn running"),
    "telephony_agent": (
        ["telephony_agent.py", "--port", "0", "--public-url", "https://agent.example.com"],
        "Uvicorn running",
    ),
}
NEEDS = {"webrtc_server": ("aiortc",), "telephony_agent": ("pipecat", "pocketsphinx")}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", STARTED)
def test_an_interrupted_example_shows_no_traceback(name: str, tmp_path: Path) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    (script, *arguments), says = STARTED[name]
    long = tmp_path / "long.wav"
    question = read_audio(sample_questions()[0].path)
    sf.write(long, np.pad(question, (0, 24_000 * 60)), 24_000)
    command = [sys.executable, str(EXAMPLES / script)]
    command += [str(long) if one == "LONG" else one for one in arguments]
    environment = os.environ | {"TWILIO_AUTH_TOKEN": "secret", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(BEGUN_S, process.kill)
    timer.start()
    assert process.stdout is not None
    said = ""
    while says not in said:
        line = process.stdout.read(1)
        assert line, said
        said += line
    timer.cancel()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=ENDED_S)
    assert "Traceback" not in said + rest and "Error" not in rest, said + rest
    assert process.returncode in (0, 130)
