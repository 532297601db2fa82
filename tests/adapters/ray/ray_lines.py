"""Calls that say nothing and hear when they are over, to the server on Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.opus import OpusWriter
from tests.adapters.ray.ray_process import Cluster
from tests.adapters.server.server_clients import PATIENCE_S, paced, question


@dataclass
class Line:
    """A call that says nothing, and hears when it is over."""

    websocket: ClientConnection
    heard_at: list[float] = field(default_factory=list)
    ended: ConnectionClosed | None = None
    ended_at: float = 0.0

    async def listen(self) -> None:
        try:
            while True:
                await self.websocket.recv()
                self.heard_at.append(time.monotonic())
        except ConnectionClosed as error:
            self.ended, self.ended_at = error, time.monotonic()

    async def speak(self) -> None:
        writer = OpusWriter()
        await self.websocket.send(Kind.AUDIO.message(writer.header()))
        async for chunk in paced(question("What is your name?")[:0]):
            await self.websocket.send(Kind.AUDIO.message(writer.push(chunk)))


@asynccontextmanager
async def line(cluster: Cluster) -> AsyncIterator[Line]:
    """A call over `/api/chat`, for as long as the block. Raises ConnectionRefusedError."""
    address = f"{cluster.websocket}/api/chat"
    async with connect(address, compression=None, open_timeout=PATIENCE_S) as websocket:
        if (first := await websocket.recv()) != Kind.HANDSHAKE.message():
            raise ConnectionRefusedError(first)
        call = Line(websocket)
        tasks = [asyncio.create_task(call.listen()), asyncio.create_task(call.speak())]
        try:
            yield call
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
