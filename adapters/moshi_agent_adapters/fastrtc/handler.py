# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""One conversation in FastRTC."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastrtc import AdditionalOutputs, AsyncStreamHandler
from fastrtc.utils import CloseStream
from numpy.typing import NDArray

from moshi_agent import AudioChunk, Ended, Engine, MoshiAgentError, Session, SessionConfig, TextToken
from moshi_agent.audio.framing import SAMPLE_RATE_HZ

Pcm = NDArray[np.int16]


class MoshiHandler(AsyncStreamHandler):
    """Hears and speaks at the same time. `fastrtc.Stream` makes a copy for each connection.

    The bot's words come as `AdditionalOutputs(piece)`. A call that finds no free row is closed, and so is one
    whose conversation is over.

    Args:
        engine: a started one, which all connections share.
        config: of each conversation, which is always live and at 24 kHz.
    """

    def __init__(self, engine: Engine, config: SessionConfig | None = None) -> None:
        super().__init__("mono", output_sample_rate=SAMPLE_RATE_HZ, input_sample_rate=SAMPLE_RATE_HZ)
        self._engine, self._config = engine, config or SessionConfig(when_late="drop_oldest")
        self._opened: asyncio.Future[Session | MoshiAgentError] | None = None

    def copy(self) -> MoshiHandler:
        """Makes the handler of one connection."""
        return MoshiHandler(self._engine, self._config)

    async def start_up(self) -> None:
        """Opens the conversation."""
        try:
            self._opening().set_result(await self._engine.session(self._config).open_async())
        except MoshiAgentError as error:
            self._opening().set_result(error)

    async def receive(self, frame: tuple[int, Pcm]) -> None:
        """Gives the bot something to hear: a rate and samples, [N] or [1, N]."""
        if not self._opening().done():
            return
        session = self._opening().result()
        if isinstance(session, Session) and session.is_open:
            rate, samples = frame
            session.push(samples.reshape(-1), sample_rate=rate)

    async def emit(self) -> Any:
        """Waits for what comes next: sound as a rate and [1, N] samples, a piece of text, or the end."""
        session = await asyncio.shield(self._opening())
        if not isinstance(session, Session):
            return CloseStream(str(session))
        try:
            return await _next(session)
        except asyncio.CancelledError:  # all that FastRTC tells of the end of a websocket
            session.close()
            raise

    async def shutdown(self) -> None:
        """Ends the conversation."""
        if self._opening().done() and isinstance(session := self._opening().result(), Session):
            session.close()

    def _opening(self) -> asyncio.Future[Session | MoshiAgentError]:
        """Returns the conversation to come. FastRTC asks for sound before it has begun one."""
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
        return self._opened


async def _next(session: Session) -> Any:
    async for event in session:
        if isinstance(event, AudioChunk):
            pcm = (np.clip(event.pcm, -1, 1) * 32767).astype(np.int16)
            return event.sample_rate, pcm[None]
        if isinstance(event, TextToken):
            return AdditionalOutputs(event.text)
        if isinstance(event, Ended):
            return CloseStream(event.reason)
    return CloseStream("closed")
