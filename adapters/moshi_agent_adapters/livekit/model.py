"""The model that an AgentSession is given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from livekit.agents import JobExecutorType, get_job_context, llm

from moshi_agent import ConfigError
from moshi_agent_adapters.livekit.session import MoshiSession
from moshi_agent_adapters.livekit.turn_gate import TurnGate

if TYPE_CHECKING:  # torch comes with them, and importing a plugin is to be cheap
    from moshi_agent import Engine, SessionConfig

_log = logging.getLogger("livekit.plugins.moshi")
_ENGINE_RATE_HZ = 24_000

# What an AgentSession is to leave to Moshi: whose turn it is, and hearing the user from the first word on.
# (While a bot speaks for its first three seconds, LiveKit gives it silence: an echo canceller has to settle.)
SESSION_OPTIONS: dict[str, Any] = {
    "vad": None,
    "turn_handling": {"turn_detection": None},
    "aec_warmup_duration": None,
}

_A_PROCESS_A_CALL = (
    "LiveKit runs this call in a process of its own, so that every call would load the model again; "
    "accepted: one process for all calls, by `MoshiServer(...)` from livekit.plugins.moshi or "
    "`AgentServer(job_executor_type=JobExecutorType.THREAD)`"
)


class MoshiModel(llm.DuplexModel):
    """Runs Moshi as a DuplexModel: full duplex, audio in and audio out, interruptions its own.

    It hears all the time and speaks when it wants to: `AgentSession(llm=..., **SESSION_OPTIONS)` leaves the
    turns to it. `RealtimeModel` is the same with `AgentSession.say`.

    Moshi hears; it cannot read. Instructions reach a model that takes roles, as PersonaPlex does; the chat
    context and tools reach the backend. What reaches nobody is warned of once, and a hand-off keeps the call.

    Args:
        engine: all calls of a worker share it, and none closes it. `MoshiServer` loads one.
        backend: any LLM of LiveKit. It answers `generate_reply` and the user's turns, runs tools, and Moshi
            speaks what it writes. For the user's turns the engine needs a `transcriber`.
        delegate: told what the user has said, whether the backend is to answer that; None: always.
        session: everything else about the conversation, such as `greet=True`. Rates and pace are set here.

    Raises:
        ConfigError: the call runs in a process of its own.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        backend: llm.LLM[Any] | None = None,
        delegate: Callable[[str], bool] | None = None,
        session: SessionConfig | None = None,
    ) -> None:
        check_executor()
        super().__init__(
            capabilities=llm.DuplexCapabilities(
                user_transcription=engine.model.transcriber is not None,
                auto_tool_reply_generation=True,
                # As soon as one of them is not, a hand-off closes the call and forgets it.
                mutable_chat_context=True,
                mutable_instructions=True,
                mutable_tools=True,
            )
        )
        self.engine = engine
        self.backend = backend
        self.delegate = delegate
        self._session = session
        self._warned: set[str] = set()

    @property
    def model(self) -> str:
        """The checkpoint's name."""
        return self.engine.model.name

    @property
    def provider(self) -> str:
        """Who runs it: this process."""
        return "moshi-agent"

    def audio_gate(self) -> TurnGate:
        """Returns the gate of one conversation."""
        return TurnGate()

    def session(self) -> MoshiSession:
        """Returns a conversation. It takes its row of the engine when LiveKit configures it."""
        return MoshiSession(self)

    async def aclose(self) -> None:
        """Does nothing: the engine is everybody's."""

    def session_config(self, instructions: str) -> SessionConfig:
        """Returns what a conversation with these instructions is set up with."""
        from moshi_agent import SessionConfig

        config = self._session or SessionConfig()
        if self.engine.model.takes_roles and not config.role:
            config = replace(config, role=instructions.strip() or None)
        return replace(
            config, live=True, when_late="drop_oldest", output_sample_rate=_ENGINE_RATE_HZ, transcribe=True
        )

    def warn_once(self, about: str, message: str) -> None:
        """Warns of what has no effect, once for each subject."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("%s", message)


def check_executor() -> None:
    """Raises ConfigError in a job that has a process of its own."""
    context = get_job_context(required=False)
    if context is not None and context.proc.executor_type is JobExecutorType.PROCESS:
        raise ConfigError(_A_PROCESS_A_CALL)
