"""Calls to an AgentSession in real time: a microphone and a loudspeaker of LiveKit's kinds, and no room."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import soundfile as sf
from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool, llm
from livekit.agents.metrics import RealtimeModelMetrics
from livekit.agents.testing import fake_job_context
from livekit.agents.types import APIConnectOptions
from livekit.agents.utils import shortuuid
from livekit.agents.voice import io
from numpy.typing import NDArray

from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.livekit import SESSION_OPTIONS

RATE_HZ = 24_000
PACKET = RATE_HZ // 50  # samples, 20 ms
PATIENCE_S = 60.0
# What `tiny` is asked, and what it answers.
NAME = ("What is your name?", "My name is Moshi, and I am a tiny talking model.")
SUM = ("How much is two plus two?", "Two and two make four.")
WEEK = ("Name the days of the week.", "They run from Monday to Sunday, and then they start again.")
VOICE = ("Are you a robot?", "I am a computer program with a voice.")
NO_RETRY = APIConnectOptions(max_retry=0)


def question(text: str) -> NDArray[np.int16]:
    """A shipped question, [N] int16."""
    samples, rate_hz = sf.read(find_question(text, sample_questions()).path, dtype="int16")
    assert rate_hz == RATE_HZ
    return samples


class Microphone(io.AudioInput):
    """Gives a packet every 20 ms: what the caller says, and silence where the caller says nothing."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._packets: deque[NDArray[np.int16]] = deque()
        self._next_at = 0.0

    def speak(self, pcm: NDArray[np.int16]) -> None:
        whole = len(pcm) // PACKET
        self._packets.extend(pcm[: whole * PACKET].reshape(whole, PACKET))

    async def __anext__(self) -> rtc.AudioFrame:
        now = time.monotonic()
        self._next_at = max(self._next_at + 0.02, now - 1.0)
        await asyncio.sleep(max(0.0, self._next_at - now))
        pcm = self._packets.popleft() if self._packets else np.zeros(PACKET, np.int16)
        return rtc.AudioFrame(pcm.tobytes(), RATE_HZ, 1, PACKET)


class Loudspeaker(io.AudioOutput):
    """Plays in real time to nobody."""

    def __init__(self) -> None:
        super().__init__(
            label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=True), sample_rate=RATE_HZ
        )
        self.segments: list[float] = []  # seconds of each
        self._began_at = 0.0
        self._pushed_s = 0.0
        self._end: asyncio.TimerHandle | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._pushed_s:
            self._began_at = time.monotonic()
            self.on_playback_started(created_at=time.time())
        self._pushed_s += frame.duration

    @property
    def played_s(self) -> float:
        """Seconds of all that has come."""
        return sum(self.segments) + self._pushed_s

    def flush(self) -> None:
        super().flush()
        if self._pushed_s and self._end is None:
            left_s = self._began_at + self._pushed_s - time.monotonic()
            self._end = asyncio.get_running_loop().call_later(max(0.0, left_s), self._finish, False)

    def clear_buffer(self) -> None:
        if self._pushed_s:
            self._finish(True)

    def _finish(self, interrupted: bool) -> None:
        if self._end is not None:
            self._end.cancel()
        position_s = min(self._pushed_s, time.monotonic() - self._began_at)
        self.segments.append(self._pushed_s)
        self._pushed_s, self._end = 0.0, None
        self.on_playback_finished(playback_position=position_s, interrupted=interrupted)


class Call:
    """One call, and everything that the AgentSession tells of it."""

    def __init__(self, session: AgentSession[None]) -> None:
        self.session = session
        self.microphone = Microphone()
        self.loudspeaker = Loudspeaker()
        self.events: list[Any] = []
        session.input.audio = self.microphone
        session.output.audio = self.loudspeaker
        for name in (
            "agent_state_changed",
            "user_state_changed",
            "user_input_transcribed",
            "conversation_item_added",
            "function_tools_executed",
            "error",
            "close",
        ):
            session.on(name, self.events.append)  # pyright: ignore[reportArgumentType]
        self.usage: list[RealtimeModelMetrics] = []  # of each turn

    def of(self, kind: str) -> list[Any]:
        """The events of a type, by LiveKit's name for it."""
        return [event for event in self.events if event.type == kind]

    @property
    def messages(self) -> list[llm.ChatMessage]:
        items = [event.item for event in self.of("conversation_item_added")]
        return [item for item in items if isinstance(item, llm.ChatMessage)]

    @property
    def bot_said(self) -> list[str]:
        return [message.text_content or "" for message in self.messages if message.role == "assistant"]

    def ask(self, text: str) -> None:
        self.microphone.speak(question(text))

    async def until(self, holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
        """Waits for what the engine's thread and LiveKit's tasks do in their own time."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"in vain; the bot has said {self.bot_said}"
            await asyncio.sleep(0.02)

    async def hear(self, answers: int) -> list[str]:
        """Waits until the bot has said so much."""
        await self.until(lambda: len(self.bot_said) >= answers)
        return self.bot_said


@asynccontextmanager
async def calling(
    model: llm.DuplexModel | llm.RealtimeModel, agent: Agent | None = None
) -> AsyncIterator[Call]:
    """A call from its start to its end, in a job of LiveKit's own making without a room."""
    session: AgentSession[None] = AgentSession(llm=model, user_away_timeout=None, **SESSION_OPTIONS)
    call = Call(session)
    with fake_job_context() as job:
        try:
            await session.start(agent or Agent(instructions=""))
            assert session.current_agent is not None
            session.current_agent.duplex_session.on("metrics_collected", call.usage.append)
            yield call
        finally:
            await session.aclose()
            job._tempdir.cleanup()  # as LiveKit does at a job's end  # pyright: ignore[reportPrivateUsage]


class Clerk(Agent):
    """Has a tool, and may hand over to a colleague."""

    def __init__(self, name: str = "") -> None:
        super().__init__(instructions="Be brief.")
        self.name = name
        self.looked_up: list[str] = []

    @function_tool
    async def look_up(self, city: str) -> str:
        """Tells the weather of a city."""
        self.looked_up.append(city)
        return "sunny"


Answer = str | tuple[str, dict[str, Any]]  # a text, or a tool and its arguments


class ScriptedLLM(llm.LLM):
    """Gives one answer after the other, and keeps what it was asked."""

    def __init__(self, *answers: Answer | Exception) -> None:
        super().__init__()
        self.answers = deque(answers)
        self.asked: list[llm.ChatContext] = []

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = NO_RETRY,
        **_: Any,
    ) -> llm.LLMStream:
        self.asked.append(chat_ctx)
        return _Scripted(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=NO_RETRY)


class _Scripted(llm.LLMStream):
    async def _run(self) -> None:
        assert isinstance(self._llm, ScriptedLLM)
        answer = self._llm.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            delta = llm.ChoiceDelta(role="assistant", content=answer)
        else:
            name, arguments = answer
            call = llm.FunctionToolCall(
                name=name, arguments=json.dumps(arguments), call_id=shortuuid("call_")
            )
            delta = llm.ChoiceDelta(role="assistant", tool_calls=[call])
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))
