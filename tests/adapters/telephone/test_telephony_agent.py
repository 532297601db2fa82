"""The telephony example, served by uvicorn, called through real sockets in Twilio's protocol."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

import uvicorn
from loguru import logger
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from moshi_agent import Engine
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.training.annotation.sphinx import SphinxRecogniser
from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Voice, synthesise
from tests.adapters.pipecat.phone_calls import RATE_HZ
from tests.adapters.pipecat.pipecat_calls import question, until
from tests.adapters.telephone.twilio_caller import (
    CALLER,
    CONNECTED,
    MU_LAW,
    PUBLIC_URL,
    TwilioCall,
    dial,
    start_message,
    to_mu_law,
    token_in,
)

EXAMPLE = Path(__file__).parents[3] / "examples" / "telephony_agent.py"
GREETING = "Hello, this is Moshi. How can I help you?"
SECRET = "the account's auth token"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example as a module: it is a program and belongs to no package."""
    sys.path.insert(0, str(EXAMPLE.parent))  # where the program finds what lies beside it
    spec = importlib.util.spec_from_file_location("telephony_agent", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Agent:
    """The example on a port of its own, for so many calls at once."""

    def __init__(
        self, example: ModuleType, calls: int, folder: Path, *, hear: Any = None, **options: Any
    ) -> None:
        self.example, self.folder = example, folder
        self.engine = Engine.load("tiny", device="cpu", capacity=calls, admit_by_time=False, transcriber=hear)
        config = example.AgentConfig(
            public_url=PUBLIC_URL,
            auth_token=SECRET,
            calls=calls,
            transcripts=folder,
            database=folder / "orders.db",
            **options,
        )
        app = example.create_app(config, self.engine)
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio")
        )
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Agent:
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def sign(self, url: str, form: list[tuple[str, str]]) -> str:
        return self.example.signature(SECRET, url, form)

    async def dial(self, call_sid: str) -> tuple[int, str]:
        return await dial(self.port, call_sid, self.sign)

    async def call(self, call_sid: str) -> TwilioCall:
        """Dials until a line is free: that of a call before it is given back a moment after its row."""
        deadline = time.monotonic() + 30
        while True:
            status, instructions = await self.dial(call_sid)
            assert status == 200
            if "<Reject" not in instructions or time.monotonic() > deadline:
                return TwilioCall(self.port, call_sid, token_in(instructions))
            await asyncio.sleep(0.1)

    def said(self, call_sid: str) -> list[str]:
        """What the bot has said in a call, as its transcript file has it."""
        path = self.folder / f"{call_sid}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [entry["text"] for entry in map(json.loads, lines) if entry["who"] == "bot"]

    def record(self, call_sid: str) -> dict[str, Any]:
        """What the database has kept of a call."""
        with closing(sqlite3.connect(self.folder / "orders.db")) as database:
            database.row_factory = sqlite3.Row
            return dict(database.execute("SELECT * FROM calls WHERE call_sid = ?", (call_sid,)).fetchone())

    async def has_no_calls(self) -> None:
        await until(lambda: self.engine.metrics().live_sessions == 0)


@pytest.fixture(scope="module")
def agent(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with Agent(example, 2, tmp_path_factory.mktemp("calls")) as agent:
        yield agent


class TestSignature:
    def test_it_is_the_one_of_twilios_own_example(self, example: ModuleType) -> None:
        form = {
            "CallSid": "CA1234567890ABCDE",
            "Caller": "+14158675309",
            "Digits": "1234",
            "From": "+14158675309",
            "To": "+18005551212",
        }
        url = "https://mycompany.com/myapp.php?foo=1&bar=2"
        # From Twilio's documentation of webhook security.
        expected = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
        assert example.signature("12345", url, list(form.items())) == expected

    @pytest.mark.parametrize("wrong", ["", "c29tZSBvdGhlcg==", "not ascii: \u00e9"])
    def test_a_wrong_one_is_refused(self, agent: Agent, wrong: str) -> None:
        def sign(url: str, form: object) -> str:
            return wrong

        status, text = asyncio.run(dial(agent.port, "CA1", sign))
        assert (status, text) == (403, "wrong signature")

    def test_one_of_another_address_is_refused(self, agent: Agent) -> None:
        def sign(url: str, form: list[tuple[str, str]]) -> str:
            return agent.sign(url + "?admin=1", form)

        assert asyncio.run(dial(agent.port, "CA1", sign))[0] == 403

    def test_a_signed_query_is_accepted(self, agent: Agent) -> None:
        assert asyncio.run(dial(agent.port, "CAquery1", agent.sign, "/voice?a=1&b=2"))[0] == 200

    def test_a_call_without_a_usable_id_is_refused(self, agent: Agent) -> None:
        assert asyncio.run(agent.dial("../../etc/passwd"))[0] == 400


@pytest.fixture(scope="module")
def refuser(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent for streams that are to be refused: what they reserve disturbs no other test."""
    with Agent(example, 30, tmp_path_factory.mktemp("refused")) as agent:
        yield agent


def corrupt_start(change: Callable[[dict[str, Any]], object]) -> Callable[[str], list[str]]:
    def messages(token: str) -> list[str]:
        start = start_message("CA1", token)
        change(start["start"])
        return [json.dumps(CONNECTED), json.dumps(start)]

    return messages


BEGINNINGS: dict[str, Callable[[str], list[str]]] = {
    "malformed JSON": lambda token: ["{", "}"],
    "no object": lambda token: ["[]"],
    "media instead of start": lambda token: [json.dumps(CONNECTED), '{"event": "media"}'],
    "start without its content": lambda token: [json.dumps(CONNECTED), '{"event": "start"}'],
    "another token": lambda token: [json.dumps(start_message("CA1", "guessed"))],
    "another call": lambda token: [json.dumps(start_message("CA2", token))],
    "a token that is no text": lambda token: [json.dumps(start_message("CA1", token) | {"start": 1})],
    "no call": corrupt_start(lambda start: start.pop("callSid")),
    "another encoding": corrupt_start(lambda start: start["mediaFormat"].update(encoding="audio/opus")),
    "ids of another type": corrupt_start(lambda start: start.update(streamSid=["MZ0"])),
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_stream_that_begins_wrong_is_refused(refuser: Agent, beginning: str) -> None:
    async def call() -> int | None:
        _, instructions = await refuser.dial("CA1")
        async with connect(f"ws://127.0.0.1:{refuser.port}/media") as socket:
            for message in BEGINNINGS[beginning](token_in(instructions)):
                await socket.send(message)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 10)
            return socket.close_code

    assert asyncio.run(call()) == 1008
    assert refuser.engine.metrics().opened_sessions == 0


@pytest.mark.real_time
class TestCallsThatEndBadly:
    @pytest.mark.parametrize("payload", ["A", 5, {}, "\ud800"])
    def test_a_wrong_payload_is_left_out_and_the_call_goes_on(self, agent: Agent, payload: object) -> None:
        async def call() -> None:
            async with await agent.call("CApayload") as phone:
                await until(lambda: len(phone.heard) > 5, 30)
                await phone.send({"event": "media", "streamSid": "MZ0", "media": {"payload": payload}})
                await phone.send({"event": "media", "streamSid": "MZ0", "media": "none"})
                heard = len(phone.heard)
                await until(lambda: len(phone.heard) > heard + 50, 30)
            await agent.has_no_calls()

        asyncio.run(call())

    def test_what_a_stall_held_up_is_heard_or_left_out_and_the_call_goes_on(self, agent: Agent) -> None:
        async def call() -> None:
            async with await agent.call("CAstall") as phone:
                await until(lambda: phone.loud_s() > 1, 30)
                phone.flowing.clear()
                await asyncio.sleep(10)
                phone.flowing.set()
                await asyncio.sleep(1)
                asked_at = time.monotonic()
                phone.say(question("How much is two plus two?", RATE_HZ))
                await until(lambda: phone.loud_s(asked_at) > 0.7, 60)
            await agent.has_no_calls()

        asyncio.run(call())

    def test_a_malformed_message_in_between_is_ignored(self, agent: Agent) -> None:
        async def call() -> None:
            async with await agent.call("CAmalformed") as phone:
                await phone.socket.send("{")
                await phone.socket.send("")
                await until(lambda: len(phone.heard) > 20, 30)
            await agent.has_no_calls()

        asyncio.run(call())

    def test_a_socket_that_dies_frees_the_row(self, agent: Agent) -> None:
        async def call() -> None:
            phone = await agent.call("CAdies")
            async with phone:
                await until(lambda: len(phone.heard) > 5, 30)
                phone.socket.transport.abort()
                await agent.has_no_calls()

        asyncio.run(call())

    def test_a_token_is_good_for_one_call(self, agent: Agent) -> None:
        async def call() -> int | None:
            status, instructions = await agent.dial("CAtwice")
            assert status == 200
            token = token_in(instructions)
            first, second = (TwilioCall(agent.port, "CAtwice", token) for _ in range(2))
            async with first, second:
                await asyncio.wait_for(second.socket.wait_closed(), 10)
                code = second.socket.close_code
            await agent.has_no_calls()
            return code

        assert asyncio.run(call()) == 1008


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged, a line a record."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{level} {message}")
    yield lines
    logger.remove(sink)


def end_of(call_sid: str, log: list[str]) -> str:
    """Why a call is over, as the one line about it says."""
    pattern = re.compile(rf"INFO call ended after \d+\.\d s \({call_sid}, session \d+\): (.*)\n")
    (end,) = [found[1] for line in log if (found := pattern.fullmatch(line))]
    return end


@pytest.mark.real_time
class TestRetries:
    """Providers ask twice: a slow answer is asked for again, a broken stream is opened again."""

    def test_a_webhook_that_is_asked_again_renews_its_line(self, example: ModuleType, tmp_path: Path) -> None:
        async def calls(agent: Agent) -> None:
            answers = [await agent.dial("CA1") for _ in range(3)]
            assert len({token_in(instructions) for _, instructions in answers}) == 1
            _, other = await agent.dial("CA2")
            assert "busy" in other
            async with await agent.call("CA1") as phone:
                await until(lambda: len(phone.heard) > 5, 30)
            await agent.has_no_calls()

        with Agent(example, 1, tmp_path) as agent:
            asyncio.run(calls(agent))

    def test_a_second_stream_of_a_call_takes_the_place_of_the_first(
        self, example: ModuleType, tmp_path: Path
    ) -> None:
        async def calls(agent: Agent) -> None:
            async with await agent.call("CA1") as first:
                await until(lambda: len(first.heard) > 5, 30)
                async with await agent.call("CA1") as second:
                    await asyncio.wait_for(first.socket.wait_closed(), 20)
                    await until(lambda: len(second.heard) > 5, 30)
                    _, other = await agent.dial("CA2")
                    assert "busy" in other
            await agent.has_no_calls()
            async with await agent.call("CA2") as third:
                await until(lambda: len(third.heard) > 5, 30)
            await agent.has_no_calls()

        with Agent(example, 1, tmp_path) as agent:
            asyncio.run(calls(agent))


@pytest.mark.real_time
class TestWorkOfTheAgent:
    """What a call leaves in the database, and where the provider is sent after it."""

    @pytest.mark.slow
    def test_key_2_hands_the_caller_over(self, example: ModuleType, tmp_path: Path, log: list[str]) -> None:
        async def call(agent: Agent) -> str:
            async with await agent.call("CA1") as phone:
                await heard_text(agent, "CA1", phone, GREETING)
                await phone.press("2")
                await asyncio.wait_for(phone.socket.wait_closed(), 30)
            await agent.has_no_calls()
            await until(lambda: agent.record("CA1")["outcome"] != "open", 10)
            return (await dial(agent.port, "CA1", agent.sign, "/after"))[1]

        with Agent(example, 1, tmp_path, person="+15550199") as agent:
            assert asyncio.run(call(agent)) == "<Response><Dial>+15550199</Dial></Response>"
            record = agent.record("CA1")
        assert record["outcome"] == "handed over" and record["phone"] == CALLER
        turns = json.loads(record["transcript"])  # one or two of the bot: it does not wait between sentences
        said = " ".join(turn["text"] for turn in turns if turn["speaker"] == "bot")
        assert said.startswith(GREETING) and "Please wait a moment." in said
        assert end_of("CA1", log) == "the caller is handed over"

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("flite") is None, reason="not installed: flite")
    def test_an_order_is_asked_for_found_and_told(self, example: ModuleType, tmp_path: Path) -> None:
        async def call(agent: Agent) -> None:
            async with await agent.call("CA1") as phone:
                await heard_text(agent, "CA1", phone, GREETING)
                speech = synthesise("Where is my order?", Voice(engine="flite", name="rms"))
                speech = StreamResampler(SAMPLE_RATE_HZ, RATE_HZ).push(speech)
                phone.say(np.round(speech * 32767).astype(np.int16))
                await heard_text(agent, "CA1", phone, "Your order will arrive on Friday.")
            await agent.has_no_calls()
            await until(lambda: agent.record("CA1")["outcome"] != "open", 10)

        hear = SphinxRecogniser(grammar=example.grammar())
        with Agent(example, 1, tmp_path, hear=hear) as agent:
            asyncio.run(call(agent))
            record = agent.record("CA1")
        assert record["outcome"] == "answered"
        assert json.loads(record["looked_up"]) == [
            {"question": "where is my order", "found": "Your order will arrive on Friday."}
        ]
        said = [turn["text"] for turn in json.loads(record["transcript"]) if turn["speaker"] == "user"]
        assert said == ["where is my order"]

    def test_after_any_other_call_the_provider_hangs_up(self, agent: Agent) -> None:
        async def call() -> str:
            async with await agent.call("CAover") as phone:
                await until(lambda: len(phone.heard) > 5, 30)
            await agent.has_no_calls()
            await until(lambda: agent.record("CAover")["outcome"] != "open", 10)
            return (await dial(agent.port, "CAover", agent.sign, "/after"))[1]

        assert asyncio.run(call()) == "<Response><Hangup/></Response>"
        assert agent.record("CAover")["outcome"] == "hung up"

    def test_what_is_not_signed_is_told_nothing(self, agent: Agent) -> None:
        assert asyncio.run(dial(agent.port, "CA1", lambda url, form: "guessed", "/after"))[0] == 403


def test_without_the_accounts_token_it_says_where_to_find_it() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TWILIO_AUTH_TOKEN"}
    command = [sys.executable, str(EXAMPLE), "--public-url", PUBLIC_URL]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "TWILIO_AUTH_TOKEN is not set" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.real_time
class TestLimits:
    def test_more_calls_than_lines_hear_that_the_line_is_busy(
        self, example: ModuleType, tmp_path: Path, log: list[str]
    ) -> None:
        async def calls(agent: Agent) -> str:
            async with await agent.call("CA1"):
                _, instructions = await agent.dial("CA2")
                await until(lambda: agent.engine.metrics().live_sessions == 1)
            await agent.has_no_calls()
            return instructions

        with Agent(example, 1, tmp_path) as agent:
            assert asyncio.run(calls(agent)) == '<Response><Reject reason="busy"/></Response>'
        assert "INFO CA2 hears that the line is busy: every line is taken\n" in log
        assert "the caller hung up" in end_of("CA1", log)

    def test_a_call_ends_at_its_limit(self, example: ModuleType, tmp_path: Path, log: list[str]) -> None:
        async def call(agent: Agent) -> float:
            began = time.monotonic()
            async with await agent.call("CA1") as phone:
                await asyncio.wait_for(phone.socket.wait_closed(), 20)
            await agent.has_no_calls()
            return time.monotonic() - began

        with Agent(example, 1, tmp_path, call_limit_s=1) as agent:
            assert 1.0 <= asyncio.run(call(agent)) < 15
        assert end_of("CA1", log) == "the call's limit was reached"


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_call(agent: Agent) -> None:
    """Greeting, question and answer, interruption, keypad: what a caller does, and hears."""

    async def call() -> None:
        async with await agent.call("CAwhole") as phone:
            await heard_text(agent, "CAwhole", phone, GREETING)
            assert phone.loud_s() > 1.0

            asked_at = time.monotonic()
            await asked(agent, "CAwhole", phone, "How much is two plus two?", "Two and two make four.")
            assert phone.loud_s(since=asked_at) > 0.7

            await interrupted(agent, "CAwhole", phone)

            await phone.press("1")
            await heard_text(agent, "CAwhole", phone, GREETING, times=2)
            await phone.press("0")
            await asyncio.wait_for(phone.socket.wait_closed(), 20)
        await agent.has_no_calls()

    asyncio.run(call())


async def heard_text(agent: Agent, sid: str, phone: TwilioCall, text: str, times: int = 1) -> None:
    await until(lambda: sum(text in said for said in agent.said(sid)) >= times, 60)
    await until(lambda: phone.is_quiet(0.5), 20)


async def asked(agent: Agent, sid: str, phone: TwilioCall, text: str, answer: str) -> None:
    """Asks, and once more where the answer is another: it mishears one question in ten over mu-law."""
    for _ in range(2):
        answers = len(agent.said(sid))
        phone.say(question(text, RATE_HZ))
        await until(lambda before=answers: len(agent.said(sid)) > before, 60)
        if agent.said(sid)[-1] == answer:
            return
    raise AssertionError(f"{agent.said(sid)} to {text!r}")


async def interrupted(agent: Agent, sid: str, phone: TwilioCall) -> None:
    """Talks into the joke, whose end must not come."""
    turns, asked_at = len(agent.said(sid)), time.monotonic()
    phone.say(question("Tell me a joke.", RATE_HZ))
    await until(lambda: phone.loud_s(since=asked_at) > 0.6, 60)
    phone.say(question("Please stop talking.", RATE_HZ))
    await until(lambda: len(agent.said(sid)) > turns, 60)
    assert not agent.said(sid)[turns].endswith("To reach the other buffer.")
    await until(lambda: phone.is_quiet(2.0), 60)  # it may have answered that as well


@pytest.mark.real_time
@pytest.mark.load
@pytest.mark.timeout(900)
def test_twenty_calls_at_once(example: ModuleType, tmp_path: Path) -> None:
    async def one(agent: Agent, number: int) -> str:
        sid = f"CAcall{number}"
        async with await agent.call(sid) as phone:
            await heard_text(agent, sid, phone, GREETING)
            phone.say(question("Thank you very much.", RATE_HZ))
            await until(lambda: len(agent.said(sid)) > 1, 240)
            return agent.said(sid)[1]

    async def all_of_them(agent: Agent) -> list[str]:
        answers = await asyncio.gather(*(one(agent, number) for number in range(20)))
        await agent.has_no_calls()
        return answers

    with Agent(example, 20, tmp_path) as agent:
        answers = asyncio.run(all_of_them(agent))
    assert answers.count("You are very welcome.") >= 15, answers


def test_mu_law_is_that_of_the_standard() -> None:
    assert MU_LAW[[0x00, 0x7F, 0x80, 0xFF]].tolist() == [-32124, 0, 32124, 0]
    back = MU_LAW[np.frombuffer(to_mu_law(MU_LAW), np.uint8)]
    assert np.array_equal(back, MU_LAW)
