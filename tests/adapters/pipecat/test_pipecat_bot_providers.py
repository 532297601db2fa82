"""The example for Pipecat's runner, started as its users start it, called by telephone through each provider.

Not real is the provider, see phone_calls.py. The bot has no keys, and no API to hang up with.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from moshi_agent import AudioChunk, Engine, Event, SamplingConfig, SessionConfig, TextToken
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.training.tiny.evaluation.matching import Matcher
from tests.adapters.pipecat.phone_calls import RATE_HZ, Pcm, PhoneCall, Provider, exotel, plivo, telnyx
from tests.adapters.pipecat.pipecat_bot_process import running_bot
from tests.adapters.pipecat.pipecat_calls import question, until
from tests.adapters.telephone.twilio_caller import twilio

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(300)]

HOST = "bot.example.com"
CALLS: dict[str, tuple[str, Provider]] = {  # what the bot is started for, and who calls
    "twilio": ("twilio", twilio("CA0", "unused")),
    "telnyx": ("telnyx", telnyx("mu")),
    "telnyx, A-law": ("telnyx", telnyx("a")),
    "plivo": ("plivo", plivo()),
    "exotel": ("exotel", exotel()),
}
ASKED, ANSWER = "How much is two plus two?", "Two and two make four."
NEAR_DB = 1.0  # other answers are more than 2 away


@pytest.fixture(scope="module")
def matcher(four_rows: Engine) -> Matcher:
    """Of the answer's sound, as the telephone lets it through."""
    sampling = SamplingConfig(greedy=True)
    config = SessionConfig(live=False, output_sample_rate=RATE_HZ, sampling=sampling, tail_ms=5_000)

    async def ask() -> list[Event]:
        async with four_rows.session(config) as session:
            await session.send_audio(question(ASKED, RATE_HZ), sample_rate=RATE_HZ)
            session.finish()
            return [event async for event in session]

    events = asyncio.run(ask())
    assert "".join(event.text for event in events if isinstance(event, TextToken)).strip() == ANSWER
    pcm = np.concatenate([event.pcm for event in events if isinstance(event, AudioChunk)])
    return Matcher([sound(np.round(pcm * 32767).astype(np.int16))])


def sound(pcm: Pcm) -> NDArray[np.float32]:
    """[M] at 24 kHz: from the first to the last loud sample."""
    loud = np.flatnonzero(np.abs(pcm.astype(int)) > 500)
    return StreamResampler(RATE_HZ, 24_000).push(pcm[loud[0] : loud[-1] + 1].astype(np.float32) / 32768)


@pytest.mark.parametrize(("name", "provider"), CALLS.values(), ids=CALLS)
def test_a_caller_hears_the_right_answer_and_leaves_the_line_free(
    name: str, provider: Provider, matcher: Matcher, tmp_path: Path
) -> None:
    async def calls(url: str) -> None:
        async with PhoneCall(url, provider) as phone:
            await greeted(phone)
            await phone.send(provider.media(1, "A"))  # what cannot be read is left out
            await answered(phone, matcher)
        assert all(message == provider.reply for message in phone.messages)
        assert all(provider.takes(size) for size in phone.sizes)
        await another_call(url, provider)

    with running_bot(tmp_path, "-t", name, "-x", HOST, calls=1) as port:
        asyncio.run(calls(stream_url(port)))


def stream_url(port: int) -> str:
    """Where the bot's webhook tells the provider to stream to, on this machine instead of the public host."""
    with urlopen(Request(f"http://localhost:{port}/", method="POST"), timeout=60) as answer:
        found = re.search(rf"wss://{HOST}(/\w+)", answer.read().decode())
    assert found is not None
    return f"ws://localhost:{port}{found[1]}"


async def greeted(phone: PhoneCall) -> None:
    await until(lambda: phone.loud_s() > 1.0, 60)
    await until(lambda: phone.is_quiet(0.8), 20)


async def answered(phone: PhoneCall, matcher: Matcher) -> None:
    """Asks, and once more where the answer is another: it mishears one question in ten over the telephone."""
    away_db: list[float] = []
    while not away_db or away_db[-1] > NEAR_DB:
        assert len(away_db) < 2, away_db
        asked_at = time.monotonic()
        phone.say(question(ASKED, RATE_HZ))
        await until(lambda since=asked_at: phone.loud_s(since) > 0.7, 60)
        await until(lambda: phone.is_quiet(1.0), 20)
        away_db += matcher.distances(sound(phone.heard_since(asked_at))).tolist()


async def another_call(url: str, provider: Provider) -> None:
    """Calls until it is greeted: a line becomes free a moment after the call."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        async with PhoneCall(url, provider) as phone:
            await until(lambda call=phone: call.loud_s() > 0 or call.is_over, 20)
        if phone.loud_s() > 0:
            return
    raise AssertionError("the line is busy")
