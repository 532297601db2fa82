# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""One conversation in FastRTC."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from fastrtc import AdditionalOutputs, AsyncStreamHandler
from fastrtc.utils import CloseStream
from numpy.typing import NDArray

from moshi_agent import (
    AudioChunk,
    BacklogFull,
    Ended,
    Engine,
    MoshiAgentError,
    Session,
    SessionClosed,
    SessionConfig,
    TextToken,
)
from moshi_agent.audio.framing import SAMPLE_RATE_HZ

Pcm = NDArray[np.int16]

TELEPHONE_RATE_HZ = 8_000


class MoshiHandler(AsyncStreamHandler):
    """Hears and speaks at the same time. `fastrtc.Stream` makes a copy for each connection.

    The bot's words come as `AdditionalOutputs(piece)`. A call that finds no free row is closed, and so is one
    whose conversation is over.

    Args:
        engine: a started one, which all connections share.
        config: of each conversation, which is always live, and at 24 kHz but on a telephone.
    """

    def __init__(self, engine: Engine, config: SessionConfig | None = None) -> None:
        super().__init__("mono", output_sample_rate=SAMPLE_RATE_HZ, input_sample_rate=SAMPLE_RATE_HZ)
        self._engine, self._config = engine, config or SessionConfig()
        self._opening: asyncio.Task[Session] | None = None
        self._begun, self._left = asyncio.Event(), asyncio.Event()
        self._is_over = False

    def copy(self) -> MoshiHandler:
        """Makes the handler of one connection."""
        return MoshiHandler(self._engine, self._config)

    async def start_up(self) -> None:
        """Opens the conversation."""
        if self.phone_mode:  # FastRTC would resample each packet by itself, which is heard at the seams
            self.input_sample_rate = self.output_sample_rate = TELEPHONE_RATE_HZ
        rate_hz = self.output_sample_rate
        config = replace(self._config, live=True, when_late="drop_oldest", output_sample_rate=rate_hz)
        self._opening = asyncio.create_task(self._opened(config))
        self._begun.set()

    async def receive(self, frame: tuple[int, Pcm]) -> None:
        """Gives the bot something to hear: a rate and samples, [N] or [1, N]."""
        if self._session is not None:
            rate, samples = frame
            with suppress(BacklogFull, SessionClosed):  # of the end `emit` tells
                self._session.push(samples.reshape(-1), sample_rate=rate)

    async def emit(self) -> Any:
        """Waits for what comes next: sound as a rate and [1, N] samples, a piece of text, or the end."""
        try:
            if self._is_over:  # FastRTC asks on until the connection is over, too
                await self._left.wait()
                raise asyncio.CancelledError
            output = await self._next()
        except asyncio.CancelledError:  # all that FastRTC tells of the end of a websocket
            await self.shutdown()
            raise
        self._is_over = isinstance(output, CloseStream)
        return output

    async def shutdown(self) -> None:
        """Ends the conversation, or the wait for one."""
        self._left.set()
        if self._opening is not None:
            self._opening.cancel()
        if self._session is not None:
            self._session.close()

    async def _opened(self, config: SessionConfig) -> Session:
        return await self._engine.session(config).open_async()

    @property
    def _session(self) -> Session | None:
        """The conversation, once it is open."""
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled() or opening.exception():
            return None
        return opening.result()

    async def _next(self) -> Any:
        await self._begun.wait()  # FastRTC asks before it has called `start_up`
        assert self._opening is not None
        try:
            session = await self._opening
        except MoshiAgentError as error:
            return CloseStream(str(error))
        async for event in session:
            if isinstance(event, AudioChunk):
                pcm = (np.clip(event.pcm, -1, 1) * 32767).astype(np.int16)
                return event.sample_rate, pcm[None]
            if isinstance(event, TextToken):
                return AdditionalOutputs(event.text)
            if isinstance(event, Ended):
                return CloseStream(event.reason)
        return CloseStream("closed")
