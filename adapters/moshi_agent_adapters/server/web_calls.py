"""The web page, and the calls that it makes: over WebRTC, under the same limits as all others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.routing import BaseRoute

from moshi_agent import EngineFull, InputError, SessionClosed, SessionConfig
from moshi_agent_adapters.protocols.call_protocol import Wanted
from moshi_agent_adapters.server.limits import TooMany
from moshi_agent_adapters.server.page_routes import page_routes
from moshi_agent_adapters.server.server import Server
from moshi_agent_adapters.webrtc import (
    ConnectionConfig,
    Connections,
    MoshiConnection,
    TooManyCalls,
    webrtc_routes,
)

_KINDS: dict[str, type] = {
    "role": str,
    "voice": str,
    "seed": int,
    "greet": bool,
    "moves": bool,
    "resume": str,
}


def routes(server: Server) -> Sequence[BaseRoute]:
    """The page and its endpoints, for an application."""
    calls = WebCalls(server)
    server.at_shutdown.append(calls.close_all)
    return [*webrtc_routes(server.engine, connections=calls, guarded=False), *page_routes()]


class WebCalls(Connections):
    """The WebRTC calls of a server."""

    def __init__(self, server: Server) -> None:
        config = server.config
        webrtc = replace(
            config.webrtc or ConnectionConfig(),
            ice_servers=config.ice_servers,
            longest_call_s=config.longest_call_s,
        )
        super().__init__(server.engine, webrtc, on_reference=server.look_up)
        self._server = server
        self._leaving: set[asyncio.Task[None]] = set()

    def info(self) -> dict[str, Any]:
        """What the page has to know."""
        config, info = self._server.config, super().info()
        greet = info["options"]["greet"] and not config.greet
        return info | {"model": config.model_name, "options": info["options"] | {"greet": greet}}

    async def session_config(self, options: dict[str, Any]) -> SessionConfig:
        """What the caller has chosen on the page."""
        for name, value in options.items():
            if type(value) is not _KINDS.get(name):
                raise InputError(f"option {name!r}; accepted: role, voice, seed, greet, moves, resume")
        chosen = {name: value for name, value in options.items() if name not in ("moves", "resume")}
        greet = chosen.pop("greet", False)
        config = self._server.session_config(Wanted(**chosen))
        return replace(config, greet=greet or config.greet)

    async def resumed(self, options: dict[str, Any]) -> bytes | None:
        """The conversation that was kept for the token of the caller. Raises SessionClosed where none is."""
        if (token := options.get("resume")) is None:
            return None
        snapshot = await self._server.take_over(token)
        if snapshot is None:
            raise SessionClosed("there is no call to go on with for this token")
        return snapshot

    async def open(self, offer_sdp: str, options: dict[str, Any], address: str = "") -> tuple[str, str]:
        """Begins a call, if the address may."""
        if self._server.is_draining:
            raise EngineFull("the server is shutting down")
        try:
            await self._server.addresses.begin(address, time.monotonic(), moves="resume" in options)
        except TooMany as error:
            raise TooManyCalls(str(error)) from error
        call_id, answer = await super().open(offer_sdp, options, address)
        leaving = asyncio.ensure_future(self._follow(self.call(call_id), bool(options.get("moves"))))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return call_id, answer

    async def admit(self, address: str, resumes: bool) -> None:
        """Counts a call for its address, now that it is connected."""
        try:
            await self._server.addresses.connect(address, moves=resumes)
        except TooMany as error:
            raise TooManyCalls(str(error)) from error

    async def _follow(self, call: MoshiConnection, can_move: bool) -> None:
        """A call to its end, here or elsewhere."""
        moving = asyncio.ensure_future(self._move(call)) if can_move else None
        await call.wait_closed()
        if moving is not None:
            moving.cancel()
        if call.is_admitted:
            self._server.addresses.leave(call.address)

    async def _move(self, call: MoshiConnection) -> None:
        await self._server.is_moving.wait()
        if call.session is not None:
            try:
                call.moved_to = await self._server.hand_over(call.session)
            finally:
                await call.close("it has moved" if call.moved_to else "it could not be moved")
