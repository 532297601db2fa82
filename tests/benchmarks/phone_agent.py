"""The phone agent of the examples as a process of its own, and calls to it in Twilio's protocol."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soxr
from numpy.typing import NDArray

from tests.adapters.pipecat.phone_calls import RATE_HZ, Pcm
from tests.adapters.telephone.twilio_caller import PUBLIC_URL, TwilioCall, dial, token_in

_EXAMPLE = Path(__file__).parents[2] / "examples" / "telephony_agent.py"
_SECRET = "the account's auth token"
_START_S, _GREETING_S = 180.0, 60.0


@dataclass(frozen=True)
class PhoneAgent:
    """The example, as it runs."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path  # of transcripts

    def said(self, call_sid: str) -> str:
        """What the bot has said in a call, as its transcript has it."""
        path = self.folder / f"{call_sid}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return " ".join(entry["text"] for entry in map(json.loads, lines) if entry["who"] == "bot")


@contextmanager
def answering(calls: int) -> Generator[PhoneAgent]:
    """Begins to answer calls, so many at once."""
    with socket.socket() as free, TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        free.close()
        command = [sys.executable, str(_EXAMPLE), "--public-url", PUBLIC_URL, "--calls", str(calls)]
        command += ["--port", str(port), "--transcripts", folder, "--database", f"{folder}/orders.db"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TWILIO_AUTH_TOKEN": _SECRET}
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            _wait_for(port, process, log)
            yield PhoneAgent(process, port, Path(folder))
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        except urllib.error.HTTPError:
            return  # it has no such page, and answers
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8"))


def _sign(url: str, form: list[tuple[str, str]]) -> str:
    """Signs a request as https://www.twilio.com/docs/usage/security has it."""
    signed = url + "".join(key + value for key, value in sorted(form))
    return base64.b64encode(hmac.digest(_SECRET.encode(), signed.encode(), hashlib.sha1)).decode()


async def ring(agent: PhoneAgent) -> tuple[str, TwilioCall] | None:
    """Dials, and asks the webhook twice, as Twilio does where an answer is late; None if no line is free."""
    call_sid = f"CA{uuid.uuid4().hex}"
    await dial(agent.port, call_sid, _sign)
    status, instructions = await dial(agent.port, call_sid, _sign)
    assert status == 200, instructions
    if "<Reject" in instructions:
        return None
    return call_sid, TwilioCall(agent.port, call_sid, token_in(instructions))


async def hear_greeting(phone: TwilioCall) -> None:
    """Waits until the bot has greeted. Raises ConnectionResetError where it hangs up."""
    deadline = time.monotonic() + _GREETING_S
    while phone.loud_s() < 0.5 or not phone.is_quiet(0.6):
        if phone.is_over:
            raise ConnectionResetError("the bot has hung up")
        assert time.monotonic() < deadline, "no greeting"
        await asyncio.sleep(0.05)


def as_on_the_telephone(samples: NDArray[np.float32]) -> Pcm:
    """Speech [N] at 24 kHz as the line brings it."""
    return (soxr.resample(samples, 24_000, RATE_HZ) * 32_767).astype(np.int16)
