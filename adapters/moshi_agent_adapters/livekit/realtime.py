"""MoshiModel with what LiveKit's own adapter of full-duplex models lacks: `AgentSession.say`."""

# pyright: reportPrivateUsage=false
# LiveKit gives no other access to a reply that is waited for; tested with livekit-agents 1.8.3 to 1.8.9.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, Any

from livekit.agents import llm
from livekit.agents.llm.duplex_adapter import AudioGate, _DuplexRealtimeSession

from moshi_agent_adapters.livekit.model import MoshiModel
from moshi_agent_adapters.livekit.session import MoshiSession

if TYPE_CHECKING:  # torch comes with them, and importing a plugin is to be cheap
    from moshi_agent import Engine, SessionConfig

_AUDIO_TIMEOUT_S = 0.8
_REPLY_TIMEOUT_S = 10.0  # as long as LiveKit waits for a reply that was asked for


class RealtimeModel(llm.DuplexRealtimeAdapter):
    """Runs Moshi in an AgentSession, which can also be told what to `say`: word for word, in Moshi's voice.

    The arguments are those of `MoshiModel`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        backend: llm.LLM[Any] | None = None,
        delegate: Callable[[str], bool] | None = None,
        session: SessionConfig | None = None,
    ) -> None:
        super().__init__(MoshiModel(engine, backend=backend, delegate=delegate, session=session))
        self.capabilities.supports_say = True

    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession:
        """Returns a conversation. Its turns are Moshi's own, and cannot be disabled."""
        assert isinstance(self.duplex_model, MoshiModel)
        return RealtimeSession(self, self.duplex_model.session(), self.duplex_model.audio_gate())


class RealtimeSession(_DuplexRealtimeSession):
    """Holds one conversation in LiveKit's terms."""

    def __init__(self, model: RealtimeModel, conversation: MoshiSession, gate: AudioGate) -> None:
        super().__init__(model, conversation, gate, _AUDIO_TIMEOUT_S)
        self._conversation = conversation
        self._sayings: set[asyncio.Task[None]] = set()
        conversation.on("reply_failed", self._fail_pending_reply)

    def say(self, text: str | AsyncIterable[str]) -> asyncio.Future[llm.GenerationCreatedEvent]:
        """Makes Moshi speak a text. The result is there when it begins to.

        It raises RealtimeError where it cannot be said, or is not begun within 10 s.
        """
        self._fail_pending_reply("something else is to be said first")
        reply: asyncio.Future[llm.GenerationCreatedEvent] = asyncio.Future()
        self._pending_reply = reply
        saying = asyncio.create_task(self._say(text, reply), name="moshi.say")
        self._sayings.add(saying)
        saying.add_done_callback(self._sayings.discard)
        return reply

    async def _say(
        self, text: str | AsyncIterable[str], reply: asyncio.Future[llm.GenerationCreatedEvent]
    ) -> None:
        try:
            whole = text if isinstance(text, str) else "".join([piece async for piece in text])
            await self._conversation.say(whole)
            async with asyncio.timeout(_REPLY_TIMEOUT_S):
                await asyncio.wait([reply])
        except Exception as error:
            if not reply.done():
                late = (
                    f"not begun within {_REPLY_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else error
                )
                reply.set_exception(llm.RealtimeError(f"cannot say {text!r}: {late}"))

    async def aclose(self) -> None:
        """Ends the conversation."""
        for saying in self._sayings:
            saying.cancel()
        await super().aclose()
