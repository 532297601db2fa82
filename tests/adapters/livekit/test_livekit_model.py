"""Moshi in an AgentSession of LiveKit, with `tiny` and in real time."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")

from livekit.agents import llm
from livekit.agents.voice.events import CloseReason

from moshi_agent import Engine, EngineFull, SessionConfig
from moshi_agent_adapters.livekit import MoshiModel, RealtimeModel
from tests.adapters.livekit.livekit_calls import NAME, SUM, VOICE, WEEK, Call, Clerk, ScriptedLLM, calling

pytestmark = pytest.mark.real_time

CONFIG = SessionConfig(seed=1)


def wait_for(holds: Callable[[], bool]) -> bool:
    """Waits for the engine's thread, which frees rows in its own time."""
    for _ in range(500):
        if holds():
            return True
        time.sleep(0.01)
    return False


def test_a_greeting_and_an_answer_are_two_messages(four_rows: Engine) -> None:
    async def talk() -> Call:
        model = MoshiModel(four_rows, session=SessionConfig(seed=1, greet=True))
        async with calling(model) as call:
            await call.hear(1)
            call.ask(NAME[0])
            await call.hear(2)
        return call

    call = asyncio.run(talk())
    assert call.bot_said == ["Hello, this is Moshi. How can I help you?", NAME[1]]
    states = [event.new_state for event in call.of("agent_state_changed")]
    assert [state for state in states if state != "initializing"] == [
        "listening",
        *["speaking", "listening"] * 2,
    ]
    assert [event.new_state for event in call.of("user_state_changed")] == ["speaking", "listening"]
    heard_s = [turn.output_tokens * 0.08 for turn in call.usage if turn.output_tokens]
    left_out_s = [turn - played for turn, played in zip(heard_s, call.loudspeaker.segments, strict=True)]
    assert all(-0.01 <= silence < 1.0 for silence in left_out_s)  # to catch up, on a busy machine
    assert not call.of("error")


def test_an_answer_that_the_user_interrupts_is_shown_so(four_rows: Engine) -> None:
    async def talk() -> Call:
        async with calling(MoshiModel(four_rows, session=CONFIG)) as call:
            call.ask(WEEK[0])
            await call.until(lambda: call.session.agent_state == "speaking")
            await asyncio.sleep(0.5)
            call.ask(SUM[0])
            await call.hear(2)
        return call

    call = asyncio.run(talk())
    cut, answer = [message for message in call.messages if message.role == "assistant"]
    assert cut.interrupted and WEEK[1].startswith(cut.text_content or "?")
    assert not answer.interrupted and answer.text_content == SUM[1]


def test_the_application_speaks_in_moshis_voice(four_rows: Engine) -> None:
    async def talk() -> Call:
        async with calling(RealtimeModel(four_rows, session=CONFIG)) as call:
            async with asyncio.timeout(20):
                await call.session.say(VOICE[1])
            assert call.bot_said == [VOICE[1]]
            call.ask(NAME[0])
            await call.hear(2)
            unspeakable = call.session.say("привет")
            await unspeakable
            assert "cannot say" in str(unspeakable.exception())
        return call

    assert asyncio.run(talk()).bot_said == [VOICE[1], NAME[1]]


def test_a_reply_without_a_backend_is_refused_at_once(four_rows: Engine) -> None:
    async def talk() -> BaseException | None:
        async with calling(MoshiModel(four_rows, session=CONFIG)) as call, asyncio.timeout(2):
            handle = call.session.generate_reply()
            await handle
            return handle.exception()

    error = asyncio.run(talk())
    assert isinstance(error, llm.RealtimeError)
    assert "backend" in str(error)


@pytest.mark.parametrize("kind", [RealtimeModel, MoshiModel])
def test_a_tool_of_an_awaited_reply_runs_at_once(
    four_rows: Engine, kind: type[RealtimeModel] | type[MoshiModel]
) -> None:
    """LiveKit queues a call behind the reply it awaits, which awaits the tool, and gives up after 10 s."""

    async def talk() -> tuple[Call, list[str]]:
        backend, clerk = ScriptedLLM(("look_up", {"city": "Paris"}), VOICE[1]), Clerk()
        async with calling(kind(four_rows, backend=backend, session=CONFIG), clerk) as call:
            reply = call.session.generate_reply(instructions="Tell the weather of Paris.")
            await call.until(lambda: clerk.looked_up, within_s=5)
            await reply
            assert reply.exception() is None
            await call.hear(1)
        return call, clerk.looked_up

    call, looked_up = asyncio.run(talk())
    assert looked_up == ["Paris"] and call.bot_said == [VOICE[1]]
    assert not call.of("error")


def test_four_calls_share_an_engine_and_a_fifth_is_refused(four_rows: Engine) -> None:
    """Each hears its own answer, and a tool runs in one of them. An ended call's row is free."""
    questions = [NAME, SUM, WEEK]

    async def ask(exchange: tuple[str, str], started: asyncio.Barrier) -> list[str]:
        async with calling(RealtimeModel(four_rows, session=CONFIG)) as call:
            await started.wait()
            call.ask(exchange[0])
            await call.hear(1)
            return call.bot_said

    async def use_a_tool(started: asyncio.Barrier) -> tuple[list[str], list[str]]:
        backend, clerk = ScriptedLLM(("look_up", {"city": "Paris"}), VOICE[1]), Clerk()
        async with calling(RealtimeModel(four_rows, backend=backend, session=CONFIG), clerk) as call:
            await started.wait()
            async with asyncio.timeout(30):
                await call.session.generate_reply(instructions="Tell the weather of Paris.")
                await call.hear(1)
            asked_at_last = [item.type for item in backend.asked[-1].items]
            assert asked_at_last[-2:] == ["function_call", "function_call_output"]
            return call.bot_said, clerk.looked_up

    async def be_refused(started: asyncio.Barrier) -> None:
        await started.wait()
        with pytest.raises(EngineFull):
            async with calling(MoshiModel(four_rows, session=CONFIG)):
                pass

    async def talk() -> list[object]:
        started = asyncio.Barrier(5)
        calls = [ask(exchange, started) for exchange in questions]
        return await asyncio.gather(*calls, use_a_tool(started), be_refused(started))

    *answers, tool, _ = asyncio.run(talk())
    assert answers == [[answer] for _, answer in questions]
    assert tool == ([VOICE[1]], ["Paris"])
    assert wait_for(lambda: four_rows.capacity().live == 0)


def test_a_hand_off_keeps_the_call(four_rows: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def talk() -> Call:
        first, second = Clerk("Ann"), Clerk("Bob")
        async with calling(MoshiModel(four_rows, session=CONFIG), first) as call:
            conversation = first.duplex_session
            call.ask(NAME[0])
            await call.hear(1)
            call.session.update_agent(second)
            await call.until(lambda: call.session.current_agent is second)
            call.ask(SUM[0])
            await call.hear(2)
            assert second.duplex_session is conversation
        return call

    with caplog.at_level(logging.WARNING, "livekit.plugins.moshi"):
        call = asyncio.run(talk())
    assert call.bot_said == [NAME[1], SUM[1]]
    warned = [record.getMessage() for record in caplog.records if record.name == "livekit.plugins.moshi"]
    assert len([line for line in warned if "tools need a backend" in line]) == 1
    assert len([line for line in warned if "instructions have no effect" in line]) == 1


def _kill(_: Engine) -> None:
    """Kills the process that was begun last: other files may have left some."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    os.kill(max(children), signal.SIGKILL)


@pytest.mark.parametrize(
    ("process", "end", "reason"),
    [
        (False, lambda engine: engine.drain(0.0), "drained"),
        pytest.param(True, _kill, "signal 9", marks=pytest.mark.slow),
    ],
    ids=["drained", "killed"],
)
def test_an_engine_that_ends_in_a_call_ends_the_session_and_says_why(
    process: bool, end: Callable[[Engine], None], reason: str
) -> None:
    async def talk() -> Call:
        options = {"capacity": 1, "admit_by_time": False, "shared": False, "process": process}
        engine = Engine.load("tiny", device="cpu", **options)
        async with engine, calling(MoshiModel(engine, session=CONFIG)) as call:
            end(engine)
            await call.until(lambda: call.of("close"))
        return call

    (close,) = asyncio.run(talk()).of("close")
    assert close.reason == CloseReason.ERROR
    assert reason in str(close.error.error)
