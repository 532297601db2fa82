"""The calls of one engine, by an id that cannot be guessed."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import Any

from moshi_agent import Engine, EngineFull, InputError, SessionClosed, SessionConfig
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent.plural import counted
from moshi_agent_adapters.networks import network_of
from moshi_agent_adapters.personas import choose_persona
from moshi_agent_adapters.webrtc.config import ConnectionConfig
from moshi_agent_adapters.webrtc.connection import MoshiConnection, TooManyCalls

_OPTIONS = {"greet": bool, "seed": int, "role": str, "voice": str}


class Connections:
    """Holds the calls of one engine, by an id that cannot be guessed.

    A subclass may say in `info` and `session_config` what callers can choose, and in `open` and `admit` whom
    it lets in. `on_reference` looks up what they ask for, as for `Engine.session`.
    """

    def __init__(
        self,
        engine: Engine,
        config: ConnectionConfig | None = None,
        on_reference: OnReference | None = None,
    ) -> None:
        self.engine = engine
        self.config = config or ConnectionConfig()
        self._on_reference = on_reference
        self._calls: dict[str, MoshiConnection] = {}

    def __len__(self) -> int:
        self._forget_closed()
        return len(self._calls)

    def info(self) -> dict[str, Any]:
        """Returns what a page has to know before it calls."""
        model = self.engine.model
        return {
            "model": self.engine.config.source,
            "ice_servers": [server.to_json() for server in self.config.ice_servers],
            "options": {"greet": not model.takes_roles, "role": model.takes_roles, "voices": [*model.voices]},
        }

    async def session_config(self, options: dict[str, Any]) -> SessionConfig:
        """Sets up a session by the options in an offer. Raises InputError for unknown ones."""
        for name, value in options.items():
            accepted = _OPTIONS.get(name)
            if accepted is None or type(value) is not accepted:
                raise InputError(
                    f"option {name!r}; accepted: greet (true or false), seed (a whole number), "
                    "role and voice (text)"
                )
        chosen = choose_persona(self.engine.model, options.get("role"), options.get("voice"))
        if chosen.left_out is not None:
            raise InputError(chosen.left_out)
        config = SessionConfig(seed=options.get("seed"), greet=options.get("greet", False))
        return replace(config, role=chosen.role, voice=chosen.voice)

    async def open(self, offer_sdp: str, options: dict[str, Any], address: str = "") -> tuple[str, str]:
        """Begins a call; its id and the SDP answer.

        Args:
            offer_sdp: of the caller.
            options: as `session_config` takes them.
            address: from where the offer came.

        Raises:
            TooManyCalls, InputError: and as `MoshiConnection.answer`.
        """
        session = await self.session_config(options)
        self._forget_closed()
        await self._check_connecting(address)
        resume = await self.resumed(options)
        admit = partial(self.admit, address, resume is not None)
        call = MoshiConnection(
            self.engine,
            session,
            self.config,
            address=address,
            admit=admit,
            resume=resume,
            on_reference=self._on_reference,
        )
        call_id = secrets.token_urlsafe(16)
        self._calls[call_id] = call
        return call_id, await call.answer(offer_sdp)

    async def resumed(self, options: dict[str, Any]) -> bytes | None:
        """Returns the conversation to go on with, None for a new one. A subclass may know some."""
        return None

    async def admit(self, address: str, resumes: bool) -> None:
        """Lets a caller in that is connected now. A subclass may raise TooManyCalls.

        Args:
            address: from where the offer came.
            resumes: the conversation has been one before.
        """

    def call(self, call_id: str) -> MoshiConnection:
        """Returns a running call. Raises SessionClosed where there is none."""
        self._forget_closed()
        if call_id not in self._calls:
            raise SessionClosed("there is no such call, or it is over")
        return self._calls[call_id]

    async def close_all(self) -> None:
        """Hangs up on everybody: the application ends."""
        for call in list(self._calls.values()):
            await call.close("the application ends")

    async def _check_connecting(self, address: str) -> None:
        """Those on the way in hold no row yet: they count for their own address, and keep nobody else out."""
        free = (await self.engine.capacity_async()).free if self._connecting(address) else 0
        connecting = self._connecting(address)  # others may have come meanwhile
        if connecting >= self.config.connecting_per_address:
            raise TooManyCalls(f"{counted(connecting, 'call')} of one address on the way in already")
        if connecting and connecting >= free:
            raise EngineFull(f"no row is free: {counted(connecting, 'call')} on the way in")

    def _connecting(self, address: str) -> int:
        network = network_of(address)
        return sum(
            call.session is None and network_of(call.address) == network for call in self._calls.values()
        )

    def _forget_closed(self) -> None:
        self._calls = {call_id: call for call_id, call in self._calls.items() if not call.is_closed}
