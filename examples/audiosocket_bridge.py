"""A bridge from Asterisk: each call that it hands over by AudioSocket is a conversation with Moshi.

    pip install moshi-agent
    python examples/audiosocket_bridge.py --port 9092

In Asterisk's `extensions.conf`, with any UUID, by which the call is known in the log:

    exten => 100,1,Answer()
     same => n,AudioSocket(40325ec2-5efd-4bd3-805f-53576e581d13,127.0.0.1:9092)
     same => n,Hangup()

AudioSocket knows no password and no encryption: listen where only Asterisk can connect. The protocol is at
https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import struct
import uuid
from contextlib import suppress

from moshi_agent import AudioChunk, AudioError, BacklogFull, Engine, MoshiAgentError, Session, SessionConfig

HANG_UP, CALL_ID, AUDIO, ERROR = 0x00, 0x01, 0x10, 0xFF
RATES_HZ = {AUDIO: 8_000, 0x11: 12_000, 0x12: 16_000, 0x13: 24_000, 0x14: 32_000, 0x15: 44_100, 0x16: 48_000}
HEADER = struct.Struct(">BH")  # kind, bytes that follow
RATE_HZ, PACKET_S = 8_000, 0.02
PACKET_BYTES = round(2 * RATE_HZ * PACKET_S)
MOST_WAITING = 2 * RATE_HZ  # bytes of the bot's voice: a second
FIRST_MESSAGE_S, SILENT_S = 5.0, 30.0

_log = logging.getLogger("audiosocket_bridge")


class Bridge:
    """Takes the connections of Asterisk. One engine serves all calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Holds one call, until one side hangs up."""
        name = "a call"
        try:
            kind, payload = await asyncio.wait_for(_read(reader), FIRST_MESSAGE_S)
            if kind != CALL_ID or len(payload) != 16:
                raise ValueError(f"the first message is of kind {kind:#04x}; accepted: a UUID (0x01)")
            name = f"call {uuid.UUID(bytes=payload)}"
            config = SessionConfig(output_sample_rate=RATE_HZ, greet=not self._engine.model.takes_roles)
            async with self._engine.session(config) as session:
                _log.info("%s begins", name)
                await _both_ways(session, reader, writer)
            _log.info("%s is over", name)
        except (OSError, EOFError, TimeoutError, ValueError, MoshiAgentError) as error:
            _log.warning("%s is over: %s", name, error or type(error).__name__)
            with suppress(OSError):
                writer.write(HEADER.pack(ERROR, 0))
        finally:
            with suppress(OSError):
                writer.write(HEADER.pack(HANG_UP, 0))
                writer.close()
                await writer.wait_closed()


async def _both_ways(session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    voice = bytearray()
    tasks = [
        asyncio.create_task(one)
        for one in (_hear(session, reader), _collect(session, voice), _speak(voice, writer))
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hear(session: Session, reader: asyncio.StreamReader) -> None:
    """What the caller says goes to the engine. Asterisk sends packets of silence, too."""
    while True:
        kind, payload = await asyncio.wait_for(_read(reader), SILENT_S)
        if kind == HANG_UP:
            return
        if kind in RATES_HZ:
            with suppress(AudioError, BacklogFull):  # half a sample, or an engine that stands still
                session.push(payload, RATES_HZ[kind])


async def _collect(session: Session, voice: bytearray) -> None:
    """What the bot says waits to be spoken. The stream ends with the conversation."""
    async for event in session:
        if isinstance(event, AudioChunk):
            voice += event.to_int16()
            del voice[:-MOST_WAITING]


async def _speak(voice: bytearray, writer: asyncio.StreamWriter) -> None:
    """Sends 20 ms each 20 ms: Asterisk has no clock of its own for it. Where nothing waits, it is silence."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        packet = bytes(voice[:PACKET_BYTES])
        del voice[:PACKET_BYTES]
        writer.write(HEADER.pack(AUDIO, PACKET_BYTES) + packet.ljust(PACKET_BYTES, b"\0"))
        await writer.drain()
        due = max(due + PACKET_S, loop.time() - 10 * PACKET_S)
        await asyncio.sleep(due - loop.time())


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next message: its kind, and what is in it."""
    kind, size = HEADER.unpack(await reader.readexactly(HEADER.size))
    return kind, await reader.readexactly(size)


async def serve(engine: Engine, host: str, port: int) -> None:
    """Takes calls until it is cancelled."""
    async with engine, await asyncio.start_server(Bridge(engine).take, host, port) as server:
        _log.info("Asterisk can connect to %s:%d", *server.sockets[0].getsockname()[:2])
        await server.serve_forever()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A bridge from Asterisk's AudioSocket to Moshi.")
    parser.add_argument("--model", default="tiny", help="as for moshi-agent run")
    parser.add_argument("--calls", type=int, default=8, help="at once")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9092)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    engine = Engine.load(options.model, capacity=options.calls)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(engine, options.host, options.port))


if __name__ == "__main__":
    main()
