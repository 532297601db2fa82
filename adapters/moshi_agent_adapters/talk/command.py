"""`moshi-agent talk`: one conversation with a server, taken up again when the connection is lost."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import click

from moshi_agent_adapters.protocols.opus import DECODED_RATE_HZ
from moshi_agent_adapters.talk.connection import (
    ConnectionLost,
    Ears,
    Moved,
    ServerAddress,
    converse,
    with_wishes,
)
from moshi_agent_adapters.talk.echo import Canceller, Headphones, echo_canceller
from moshi_agent_adapters.talk.player import Player
from moshi_agent_adapters.talk.screen import Screen
from moshi_agent_adapters.talk.sound import Microphone, devices, files

_HEADPHONES = (
    "Nothing here takes the loudspeaker's echo out of the microphone (pip install livekit would): the bot "
    "would hear itself. Are you wearing headphones?"
)
_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further attempt


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What `moshi-agent talk` was asked to do."""

    url: str
    token: str | None = None
    source: Path | None = None  # instead of the microphone
    target: Path | None = None  # instead of the speakers
    tail_s: float = 4.0
    voice: str | None = None  # by name
    role: str | None = None
    headphones: bool = False
    trusted: Path | None = None  # a certificate


def talk(asked: Talk) -> None:
    """Talks until the file, or the user, or the server ends it.

    With a microphone Ctrl-C is the end that is meant, and no interruption.

    Raises:
        MoshiAgentError: no server, no devices, no file.
    """
    canceller = Headphones() if asked.headphones or asked.source else echo_canceller()
    if canceller is None:
        click.confirm(_HEADPHONES, abort=True)
    try:
        asyncio.run(_talk(asked, canceller or Headphones()))
    except KeyboardInterrupt:
        if asked.source is not None:
            raise


async def _talk(asked: Talk, canceller: Canceller) -> None:
    player = Player(DECODED_RATE_HZ)
    screen = Screen(player)
    how_to_end = "" if asked.source else "; Ctrl-C ends the conversation"
    ears = Ears(
        on_begun=lambda: screen.note(f"connected to {asked.url}{how_to_end}"),
        on_audio=player.push,
        on_text=screen.text,
        on_note=screen.note,
        on_round_trip=screen.round_trip,
    )
    try:
        async with _sound(asked, player, screen, canceller) as microphone:
            await _keep_conversing(asked, microphone, ears, player, screen)
    finally:
        screen.end_line()


def _sound(
    asked: Talk, player: Player, screen: Screen, canceller: Canceller
) -> AbstractAsyncContextManager[Microphone]:
    if asked.source is None:
        return devices(player, screen.sound, canceller)
    return files(asked.source, asked.target, asked.tail_s, player, screen.sound)


async def _keep_conversing(
    asked: Talk, microphone: Microphone, ears: Ears, player: Player, screen: Screen
) -> None:
    """Goes on where the conversation has moved to; after a lost connection begins anew, with another one."""
    waits = list(_WAITS_S)
    server = ServerAddress(with_wishes(asked.url, asked.role, asked.voice), asked.token, asked.trusted)
    resume: str | None = None
    while True:
        began_at = asyncio.get_running_loop().time()
        try:
            await converse(server, microphone, ears, resume)
            return
        except Moved as moved:
            resume = moved.resume
        except ConnectionLost as error:
            if asyncio.get_running_loop().time() - began_at > sum(_WAITS_S):
                waits = list(_WAITS_S)
            if not waits:
                raise
            resume = None
            screen.lost(f"{error}; trying again")
            await asyncio.sleep(waits.pop(0))
            player.clear()
            while not microphone.empty():  # what was said meanwhile is no longer of interest
                if microphone.get_nowait() is None:
                    raise
