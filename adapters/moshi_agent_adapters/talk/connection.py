"""One conversation over a websocket, in Kyutai's protocol, from the client's side."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from moshi_agent import AudioError, MoshiAgentError
from moshi_agent.audio.framing import Samples
from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.opus import OpusReader, OpusWriter

PATH = "/api/chat"
_HANDSHAKE_S = 30.0  # that a server may take to have room
_PING_S = 1.0


class ConnectionLost(MoshiAgentError):
    """The server cannot be reached, or has gone in mid-conversation."""


class CallRefused(MoshiAgentError):
    """The server answers, and does not take the call, or ends it with an error."""


class Moved(MoshiAgentError):
    """The conversation goes on for whoever connects again with the token.

    Attributes:
        resume: the token.
    """

    def __init__(self, resume: str) -> None:
        super().__init__("the conversation goes on in another process of the server")
        self.resume = resume


@dataclass(frozen=True, kw_only=True)
class Ears:
    """What is called with what comes from the server."""

    on_begun: Callable[[], object] = lambda: None  # the conversation has begun
    on_audio: Callable[[Samples], object]  # [N] at 48 kHz
    on_text: Callable[[str], object]
    on_note: Callable[[str], object] = lambda text: None  # what the server says that is none of the bot's
    on_round_trip: Callable[[float], object] = lambda seconds: None


@dataclass(frozen=True)
class ServerAddress:
    """Says where a server is, and how it and its caller trust each other."""

    url: str
    token: str | None = field(default=None, repr=False)
    trusted: Path | None = None  # a certificate beside those that the system trusts


def websocket_url(url: str) -> str:
    """The endpoint of a server whose address is given as http, https, ws or wss, or as host and port alone.

    Raises:
        ConnectionLost: it is no address.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConnectionLost(f"{url} is no address of a server; accepted: one like http://localhost:8998")
    path = parts.path if parts.path.endswith(PATH) else parts.path.rstrip("/") + PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def with_wishes(url: str, role: str | None, voice: str | None) -> str:
    """The address of a server, with a role and the name of a voice as PersonaPlex's page asks for them."""
    return with_query(url, {"text_prompt": role, "voice_prompt": voice})


def with_query(url: str, wishes: Mapping[str, str | None]) -> str:
    """The address with these in its query, but for those that are None."""
    query = urlencode({name: wish for name, wish in wishes.items() if wish is not None})
    if not query:
        return url
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}".lstrip("&")))


async def converse(
    server: ServerAddress,
    microphone: asyncio.Queue[Samples | None],
    ears: Ears,
    resume: str | None = None,
) -> None:
    """Holds one conversation, until the microphone gives None or the server ends it.

    Args:
        microphone: samples [N] at 24 kHz.
        resume: the token of a conversation that has moved, to go on with it.

    Raises:
        ConnectionLost, CallRefused
        Moved: it goes on where this is called once more, with the token. Nothing of the microphone is lost.
    """
    headers = {} if server.token is None else {"Authorization": f"Bearer {server.token}"}
    url = with_query(websocket_url(server.url), {"moves": "1", "resume": resume})
    options: dict[str, Any] = {"ssl": _tls(server.trusted)} if url.startswith("wss") else {}
    try:
        async with connect(
            url, additional_headers=headers, compression=None, max_size=1 << 20, **options
        ) as websocket:
            await _await_handshake(websocket)
            ears.on_begun()
            await _Talk(websocket, ears).run(microphone)
    except InvalidStatus as error:
        raise CallRefused(f"{server.url} does not take the call: {error}") from error
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of {server.url} is not trusted: {error.verify_message}"
        raise CallRefused(f"{message}; accepted: one that --trust-cert names") from error
    except (OSError, ConnectionClosed, InvalidHandshake, InvalidURI, TimeoutError) as error:
        raise ConnectionLost(f"{server.url} cannot be reached: {error or type(error).__name__}") from error


def _tls(trusted: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if trusted is not None:
        try:
            context.load_verify_locations(trusted)
        except OSError as error:  # ssl's own errors are among them
            raise CallRefused(f"{trusted} holds no certificate: {error}") from error
    return context


async def _await_handshake(websocket: ClientConnection) -> None:
    async with asyncio.timeout(_HANDSHAKE_S):
        message = await websocket.recv()
    if isinstance(message, bytes) and message[:1] == Kind.ERROR.message():
        raise CallRefused(message[1:].decode(errors="replace"))
    if not isinstance(message, bytes) or message[:1] != Kind.HANDSHAKE.message():
        raise CallRefused("the server does not begin with a handshake: it speaks another protocol")


class _Talk:
    def __init__(self, websocket: ClientConnection, ears: Ears) -> None:
        self._websocket = websocket
        self._ears = ears
        self._pinged_at: float | None = None

    async def run(self, microphone: asyncio.Queue[Samples | None]) -> None:
        """Both directions at once, until the first of them ends."""
        tasks = [
            asyncio.create_task(work) for work in (self._speak(microphone), self._listen(), self._ping())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self, microphone: asyncio.Queue[Samples | None]) -> None:
        writer = OpusWriter()
        await self._websocket.send(Kind.AUDIO.message(writer.header()))
        while (samples := await microphone.get()) is not None:
            pages = writer.push(samples)
            if pages:
                await self._websocket.send(Kind.AUDIO.message(pages))

    async def _listen(self) -> None:
        reader = OpusReader()
        async for message in self._websocket:
            if not isinstance(message, bytes) or not message:
                continue
            kind, payload = message[0], message[1:]
            if kind == Kind.AUDIO:
                self._hear(reader, payload)
            elif kind == Kind.TEXT:
                self._ears.on_text(payload.decode(errors="replace"))
            elif kind == Kind.METADATA:
                self._note(payload)
            elif kind == Kind.ERROR:
                raise CallRefused(payload.decode(errors="replace"))
            elif kind == Kind.PING and self._pinged_at is not None:
                self._ears.on_round_trip(time.monotonic() - self._pinged_at)
                self._pinged_at = None
        raise ConnectionLost("the server has closed the connection")

    def _hear(self, reader: OpusReader, payload: bytes) -> None:
        try:
            for pcm in reader.push(payload):
                self._ears.on_audio(pcm.astype(np.float32) / np.float32(32768))
        except AudioError as error:
            raise CallRefused(f"the server sends what is no audio: {error}") from error

    def _note(self, payload: bytes) -> None:
        """What our own server says beside the protocol. Others' metadata is for nobody."""
        try:
            metadata = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if not isinstance(metadata, dict):
            return
        if isinstance(metadata.get("note"), str):
            self._ears.on_note(metadata["note"])
        if metadata.get("type") == "session.moved" and isinstance(metadata.get("resume"), str):
            raise Moved(metadata["resume"])

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_S)
            if self._pinged_at is None:
                self._pinged_at = time.monotonic()
                await self._websocket.send(Kind.PING.message())
