"""What all endpoints of one server share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from moshi_agent import (
    AskConfig,
    ConfigError,
    Engine,
    EngineFull,
    EngineUnhealthy,
    ReferenceWanted,
    Session,
    SessionConfig,
    Turn,
)
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent_adapters.personas import choose_persona
from moshi_agent_adapters.protocols.call_protocol import Wanted
from moshi_agent_adapters.server.backend import Backend
from moshi_agent_adapters.server.call_places import CallPlaces
from moshi_agent_adapters.server.config import ServerConfig
from moshi_agent_adapters.server.handover import LONGEST_TOKEN, MOST_BYTES, Handover
from moshi_agent_adapters.server.idle_calls import IdleCalls
from moshi_agent_adapters.server.limits import AddressLimits
from moshi_agent_adapters.server.loop_lag import LoopLag

_log = logging.getLogger("moshi_agent.server")


class Server:
    """Holds one engine, and who is being served with it."""

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self.engine = engine
        self.config = config
        model = engine.model
        if (config.role or config.voice) and not model.takes_roles:
            raise ConfigError(f"{model.name} was not trained to take a role or a voice")
        if config.voice is not None and config.voice not in model.voices:
            raise ConfigError(f"no voice {config.voice!r}; there are: {', '.join(model.voices) or 'none'}")
        self._check_recogniser()
        config.check_words(model.transcriber)
        self.backend = None if config.backend is None else Backend(config.backend)
        self._has_warned = False
        at_once = config.calls_of_one_address(engine.config.capacity)
        self.addresses = CallPlaces(AddressLimits(at_once, config.starts_per_minute))
        self.idle_calls = IdleCalls(config.idle_s)
        self.loop_lag = LoopLag()
        self.is_draining = False
        self.handover: Handover | None = None  # where there are other processes in which calls can go on
        self.is_moving = asyncio.Event()  # calls that can are to go on elsewhere
        self.at_shutdown: list[Callable[[], Awaitable[None]]] = []  # before the engine is closed
        if self.backend is not None:
            self.at_shutdown.append(self.backend.aclose)

    def _check_recogniser(self) -> None:
        config, model = self.config, self.engine.model
        if model.kind == "recogniser" and (config.greet or config.backend or config.delegate):
            raise ConfigError(
                f"{model.name} is a recogniser, which says nothing: it greets nobody and looks nothing up"
            )

    def asking(self, by_backend: bool) -> AskConfig | None:
        """Says when something is looked up, by the back end or by the client; None is never."""
        config, model = self.config, self.engine.model
        by_turns = (config.delegate or ("turns" if by_backend else "model")) == "turns"
        if not by_turns and not model.asks and not by_backend:
            return None
        return self._ask_config(by_turns, config.apology)

    def _ask_config(self, by_turns: bool, apology: str | None) -> AskConfig:
        config = self.config
        return AskConfig(
            by_model=not by_turns,
            when=_always if by_turns else None,
            filler=config.filler,
            apology=apology,
            timeout_s=config.delegation_s,
        )

    @property
    def look_up(self) -> OnReference | None:
        """What looks something up for callers whose clients do not; None where nothing asks for it."""
        if self.config.look_up is not None:
            return self.config.look_up
        if self.backend is not None:
            return self.backend.look_up
        return _find_nothing if self.engine.model.asks else None

    def _own_asking(self) -> AskConfig | None:
        """Says when `look_up` is asked."""
        config, model = self.config, self.engine.model
        if config.look_up is None:
            return None if self.look_up is None else self.asking(by_backend=self.backend is not None)
        # A function that reads the words of callers is surer than the ear of the model.
        by_turns = config.delegate != "model" or not model.asks
        # Asked about everything that is said, it finds nothing where there is nothing to be looked up.
        return self._ask_config(by_turns, None if by_turns else config.apology)

    def drain(self, seconds: float) -> None:
        """Takes nobody any more; calls go on to their end, for so many seconds at most."""
        self.is_draining = True
        self.engine.drain(seconds)

    async def open(
        self, config: SessionConfig, on_reference: OnReference | None = None, resume: bytes | None = None
    ) -> Session:
        """Begins a session; where no row is free, in the place of a call that does not use its own.

        Args:
            resume: the snapshot of a conversation to go on with.

        Raises:
            EngineFull, EngineUnhealthy, InputError: as `Session.open`.
        """
        session = partial(self.engine.session, config, resume=resume, on_reference=on_reference)
        try:
            async with asyncio.timeout(self.config.open_s):
                try:
                    return await session().open_async()
                except EngineFull:
                    if not await self.idle_calls.make_room(time.monotonic()):
                        raise
                    return await session().open_async()
        except TimeoutError as error:
            message = f"the engine has not answered within {self.config.open_s:g} s"
            raise EngineUnhealthy(message) from error

    async def hand_over(self, session: Session) -> str:
        """Waits until calls are to go on elsewhere, then ends a conversation between two frames and keeps it.

        Returns the token for which it is given out. Never returns where it has to stay until its call ends.
        A small one takes its cache along: it goes on at once and exactly, where otherwise the other process
        would first read its last steps again. Of a large one the cache is too much to be kept in between.
        """
        await self.is_moving.wait()
        if self.handover is None:
            return await asyncio.get_running_loop().create_future()
        is_large = (await self.engine.capacity_async()).row_bytes > MOST_BYTES
        return await self.handover.give(await session.snapshot(end=True, compact=is_large))

    async def take_over(self, token: str) -> bytes | None:
        """Returns the conversation that was kept for this token, once; None where there is none."""
        return None if self.handover is None else await self.handover.take(token[:LONGEST_TOKEN])

    def left_out(self, wanted: Wanted) -> str | None:
        """Says which of a client's wishes this model cannot follow, None where it can follow all."""
        return choose_persona(self.engine.model, wanted.role, wanted.voice).left_out

    def session_config(self, wanted: Wanted) -> SessionConfig:
        """Sets up the conversation that a client wants; leaves out, with a warning, what cannot be.

        Raises:
            InputError: a role that is too long.
        """
        chosen = choose_persona(self.engine.model, wanted.role, wanted.voice)
        if chosen.left_out is not None and not self._has_warned:
            self._has_warned = True  # once: clients of other models' protocols always name a voice
            _log.warning("a caller's wish is left out, as others will be: %s", chosen.left_out)
        role, voice = chosen.role or self.config.role, chosen.voice or self.config.voice
        asking = wanted.asking or self._own_asking()
        looks_up = wanted.lookup is not None or (wanted.asking is None and asking is not None)
        return SessionConfig(
            sampling=wanted.sampling,
            seed=wanted.seed,
            role=role,
            voice=voice,
            output_sample_rate=wanted.output_sample_rate,
            greet=self.config.greet and role is None and voice is None,
            when_late="drop_oldest",
            asking=asking,
            references="say" if looks_up and self.engine.model.references is None else "as_trained",
        )


def _always(turns: Sequence[Turn]) -> bool:
    return True


async def _find_nothing(wanted: ReferenceWanted) -> str | None:
    return None
