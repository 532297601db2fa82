"""How a call goes on in another process: its conversation is kept, and its client comes back for it."""

from __future__ import annotations

from typing import Protocol

LONGEST_TOKEN = 64  # characters
MOST_BYTES = 64 * 1024**2  # of a conversation that moves: larger ones leave the model's cache behind


class Handover(Protocol):
    """Keeps conversations that have ended here, until they go on elsewhere."""

    async def give(self, snapshot: bytes) -> str:
        """Keeps a conversation, and returns the token for which it is given out: nobody can guess it."""
        ...

    async def take(self, token: str) -> bytes | None:
        """Gives a conversation out, once; None where there is none of that token."""
        ...

    async def give_back(self, token: str, snapshot: bytes) -> None:
        """Keeps one that was taken and could not go on: whoever has the token may try once more."""
        ...
