"""The other end of LiveKit's TCP console, as its command line program is: a microphone and a loudspeaker.

Messages are protobuf after a length of four bytes. LiveKit does not document this; it is the one way to a
whole worker without a LiveKit server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from livekit.protocol.agent_pb.agent_session import AgentSessionMessage, ChatRole
from numpy.typing import NDArray

from moshi_agent.audio.resampling import StreamResampler
from tests.adapters.livekit.livekit_calls import RATE_HZ, question

WIRE_RATE_HZ = 48_000
PACKET = WIRE_RATE_HZ // 50  # samples, 20 ms
USAGE = 2  # the exit code of a program that does not know its arguments
MESSAGES = {
    "audio_input",
    "audio_output",
    "audio_playback_clear",
    "audio_playback_finished",
    "audio_playback_flush",
    "event",
}
ROLES = {ChatRole.USER: "user", ChatRole.ASSISTANT: "assistant"}


class ConsolePeer:
    """Calls the agent of one worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._packets: deque[NDArray[np.int16]] = deque()
        self._played_until = 0.0
        self.said: list[tuple[str, str]] = []  # who, and what
        self.tools: list[tuple[str, str]] = []  # which ran, and its output
        self.hand_offs = 0
        self.errors: list[str] = []

    def ask(self, text: str) -> None:
        pcm = StreamResampler(RATE_HZ, WIRE_RATE_HZ).push(question(text).astype(np.float32) / 32768)
        samples = (pcm * 32767).astype(np.int16)
        whole = len(samples) // PACKET
        self._packets.extend(samples[: whole * PACKET].reshape(whole, PACKET))

    async def talk(self) -> None:
        """Speaks and hears until the worker hangs up."""
        speaking = asyncio.create_task(self._speak())
        try:
            while True:
                length = struct.unpack(">I", await self._reader.readexactly(4))[0]
                await self._take(AgentSessionMessage.FromString(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            speaking.cancel()
            self._writer.close()

    async def _speak(self) -> None:
        began = time.monotonic()
        for number in range(1_000_000):
            await asyncio.sleep(max(0.0, began + number * 0.02 - time.monotonic()))
            pcm = self._packets.popleft() if self._packets else np.zeros(PACKET, np.int16)
            frame = AgentSessionMessage.ConsoleIO.AudioFrame(
                data=pcm.tobytes(), sample_rate=WIRE_RATE_HZ, num_channels=1, samples_per_channel=PACKET
            )
            self._send(AgentSessionMessage(audio_input=frame))

    def _send(self, message: AgentSessionMessage) -> None:
        data = message.SerializeToString()
        self._writer.write(struct.pack(">I", len(data)) + data)

    async def _take(self, message: AgentSessionMessage) -> None:
        if message.HasField("audio_output"):
            seconds = message.audio_output.samples_per_channel / message.audio_output.sample_rate
            self._played_until = max(self._played_until, time.monotonic()) + seconds
        elif message.HasField("audio_playback_flush"):
            left_s = max(0.0, self._played_until - time.monotonic())
            finished = AgentSessionMessage.ConsoleIO.AudioPlaybackFinished()
            played = AgentSessionMessage(audio_playback_finished=finished)
            asyncio.get_running_loop().call_later(left_s, self._send, played)
        elif message.HasField("audio_playback_clear"):
            self._played_until = 0.0
        elif message.HasField("event"):
            self._note(message)

    def _note(self, message: AgentSessionMessage) -> None:
        event = message.event
        if event.HasField("conversation_item_added"):
            item = event.conversation_item_added.item
            if item.HasField("message"):
                text = "".join(content.text for content in item.message.content)
                self.said.append((ROLES.get(item.message.role, "other"), text))
            self.hand_offs += item.HasField("agent_handoff")
        elif event.HasField("function_tools_executed"):
            executed = event.function_tools_executed
            pairs = zip(executed.function_calls, executed.function_call_outputs, strict=True)
            self.tools += [(call.name, output.output) for call, output in pairs]
        elif event.HasField("error"):
            self.errors.append(event.error.message)

    async def until(self, holds: Callable[[], object], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"in vain: {self.said}, {self.tools}, {self.errors}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def console(program: Path, environment: Mapping[str, str]) -> AsyncIterator[ConsolePeer]:
    """A call to the agent of a program, in a worker of its own, which then has to end in good order.

    Where LiveKit's console is called in another way than here, or knows other messages, the test is skipped.
    """
    if unknown := MESSAGES - set(AgentSessionMessage.DESCRIPTOR.fields_by_name):
        pytest.skip(f"LiveKit's console has changed: no messages {', '.join(sorted(unknown))}")
    connected: asyncio.Future[ConsolePeer] = asyncio.get_running_loop().create_future()
    talking: list[asyncio.Task[None]] = []

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = ConsolePeer(reader, writer)
        talking.append(asyncio.create_task(peer.talk()))
        connected.set_result(peer)

    listener = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()[:2]
    command = [
        sys.executable,
        "-m",
        "livekit.agents",
        "console",
        str(program),
        "--connect-addr",
        f"{host}:{port}",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, process_group=0
    )
    try:
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait({connected, ended}, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        if process.returncode == USAGE:
            pytest.skip(f"LiveKit's console has changed: {' '.join(command[1:4])} is called in another way")
        yield await asyncio.wait_for(connected, 1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        listener.close()
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
