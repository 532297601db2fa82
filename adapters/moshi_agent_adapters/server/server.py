"""What all endpoints of one server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.server.config import ServerConfig
from moshi_agent_adapters.server.limits import AddressLimits
from moshi_agent_adapters.server.prompts import Prompts
from moshi_agent_adapters.server.protocol import Wanted


class Server:
    """One engine, and who is being served with it."""

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self.engine = engine
        self.config = config
        self.prompts = Prompts(engine, config.voices, config.roles)
        self.addresses = AddressLimits(config.connections_per_address, config.starts_per_minute)
        self.is_draining = False
        self.at_shutdown: list[Callable[[], Awaitable[None]]] = []  # before the engine is closed

    def drain(self, seconds: float) -> None:
        """Takes nobody any more; calls go on to their end, for so many seconds at most."""
        self.is_draining = True
        self.engine.drain(seconds)

    async def session_config(self, wanted: Wanted) -> SessionConfig:
        """The conversation that a client wants. Raises InputError for a role that cannot be."""
        return SessionConfig(
            sampling=wanted.sampling,
            seed=wanted.seed,
            prompt=await self.prompts.prompt(wanted.role, wanted.voice),
            output_sample_rate=wanted.output_sample_rate,
            greet=self.config.greet,
        )
