"""A session of the engine that LiveKit holds, from its beginning to the line about its end in the log."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from livekit import rtc

from moshi_agent import Ended, EngineUnhealthy, SessionClosed
from moshi_agent_adapters.call_log import CallLog
from moshi_agent_adapters.livekit.frames import mono

if TYPE_CHECKING:  # torch comes with them, and importing a plugin is to be cheap
    from moshi_agent import Engine, Session, SessionConfig

_log = logging.getLogger("livekit.plugins.moshi")


class EngineCall:
    """Opens one session, takes audio for it, and closes it."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._log = CallLog(over="LiveKit")

    @property
    def session(self) -> Session:
        """The engine's session. Raises SessionClosed before it has been opened."""
        if self._session is None:
            raise SessionClosed("the conversation has not been opened")
        return self._session

    @property
    def has_begun(self) -> bool:
        """Whether it has been opened, whatever has become of it."""
        return self._session is not None

    async def open(self, engine: Engine, config: SessionConfig) -> Session:
        """Takes a row of the engine, which starts here if nobody has started it.

        Raises:
            EngineFull, EngineUnhealthy, InputError: as `Session.open`.
        """
        await engine.start_async()
        session = await engine.session(config).open_async()
        self._session, self._log.session = session, session.key
        return session

    def push(self, frame: rtc.AudioFrame) -> None:
        """Gives it something to hear. Before the beginning and after the end nobody hears it.

        Raises:
            BacklogFull: too much waits already.
        """
        if self._session is not None and self._session.is_open:
            with suppress(SessionClosed):  # between the check and now; its last event tells why
                self._session.push(mono(frame), frame.sample_rate)

    def lost(self, event: Ended, what: str) -> EngineUnhealthy:
        """Notes that the engine has ended what was to go on. Returns the error that says why."""
        reason = f"{event.reason}{': ' if event.error else ''}{event.error or ''}"
        line, facts = self._log.ended(reason)
        _log.warning("%s", line, extra=facts)
        return EngineUnhealthy(f"the {what} was ended ({reason})")

    def close(self) -> None:
        """Ends it, unless it is over. May be called again."""
        if self._session is not None and self._session.is_open:
            self._session.close()
            line, facts = self._log.ended("LiveKit closed it")
            _log.info("%s", line, extra=facts)
