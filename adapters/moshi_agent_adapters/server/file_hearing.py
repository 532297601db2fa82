"""A recording that a session of a recogniser hears, a piece at a time, as fast as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from moshi_agent import AudioError, Ended, EngineUnhealthy, Event, Session, SessionClosed
from moshi_agent.audio.files import audio_blocks
from moshi_agent.audio.framing import SAMPLE_RATE_HZ

_AHEAD_S = 20.0  # of the recording, that is decoded and waits for the engine
_POLL_S = 0.02


class FileHearing:
    """Lets a session that is not live hear a file to its end.

    Args:
        file: any audio file.
        name: of it in messages.

    Attributes:
        audio_s: seconds that were heard.
    """

    def __init__(self, file: Path, name: str) -> None:
        self._file, self._name = file, name
        self.audio_s = 0.0

    async def events(self, session: Session) -> AsyncGenerator[Event]:
        """Gives what the session tells of it.

        Raises:
            AudioError: the file is no audio, or damaged. What was heard before is told first.
            EngineUnhealthy: the engine has ended the session.
        """
        hearing = asyncio.create_task(self._hear(session))
        try:
            async for event in session:
                yield event
                if isinstance(event, Ended) and event.reason not in ("finished", "closed"):
                    raise EngineUnhealthy(f"the transcription was ended ({event.reason}): {event.error}")
            await hearing
        except AudioError as error:
            raise AudioError(str(error).replace(str(self._file), self._name)) from error
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, session: Session) -> None:
        blocks = audio_blocks(self._file)
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                # Nobody tells when a session that is not live has taken its input.
                while session.backlog_s > _AHEAD_S:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
                session.push(block, SAMPLE_RATE_HZ)
                self.audio_s += len(block) / SAMPLE_RATE_HZ
            _ = session.finish()
        except SessionClosed:
            pass  # its last event tells why
        except AudioError:
            session.close()
            raise
