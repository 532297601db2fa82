"""The calls of each address in all replicas: counted in one place, which each replica asks."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayError

from moshi_agent_adapters.server.limits import Starts, TooMany, check_room

_log = logging.getLogger("moshi_agent.ray")
_ANSWER_S = 1.0  # that a caller waits for the others' counts, at most


class AddressCounts:
    """Counts calls by network and replica. What a replica reports goes before what was counted for it."""

    def __init__(self) -> None:
        self._live: dict[str, Counter[str]] = {}  # by replica
        self._starts = Starts()

    def begin(self, network: str, at_once: int | None, starts_per_minute: int | None, now: float) -> None:
        """Counts the beginning of a call. Raises TooMany where there may be no more.

        Args:
            network: from which it comes.
            at_once: calls of one network; None for no limit.
            starts_per_minute: likewise, beginnings; None for a call whose beginning has been counted.
            now: in seconds.
        """
        if at_once is not None:
            check_room(sum(calls[network] for calls in self._live.values()), at_once)
        if starts_per_minute is not None:
            self._starts.begin(network, starts_per_minute, now)

    def connect(self, replica: str, network: str) -> None:
        """Counts a call."""
        self._live.setdefault(replica, Counter())[network] += 1

    def leave(self, replica: str, network: str) -> None:
        """Counts the end of a call."""
        self._live.setdefault(replica, Counter())[network] -= 1

    def report(self, replica: str, calls: Mapping[str, int]) -> None:
        """Takes the calls of a replica as they are: whatever was lost on the way is right again."""
        self._live[replica] = Counter(calls)

    def keep(self, replicas: set[str]) -> None:
        """Forgets the calls of all other replicas."""
        self._live = {name: calls for name, calls in self._live.items() if name in replicas}


class BoardCounts:
    """Asks the board about the calls in all replicas, on behalf of one; see `AllProcesses`.

    Where the board does not answer, a replica's own count has to do: one line in the log says so, and another
    one that it answers again.

    Args:
        at_once: calls of one address in all replicas; None for no limit but that of each replica.
        starts_per_minute: of calls, from one address.
    """

    def __init__(self, board: Any, replica: str, at_once: int | None, starts_per_minute: int) -> None:
        self._board, self._replica = board, replica
        self._at_once, self._starts_per_minute = at_once, starts_per_minute
        self._is_silent = False

    async def begin(self, network: str) -> str | None:
        """Counts the beginning of a call that is none yet; why it may not be one."""
        return await self._ask(network, self._at_once, self._starts_per_minute, enters=False)

    async def enter(self, network: str) -> str | None:
        """Counts a call; why it may not be one."""
        return await self._ask(network, self._at_once, self._starts_per_minute, enters=True)

    async def connect(self, network: str, moves: bool) -> str | None:
        """Counts a call that has begun; why it may not be one. A call that moves may be counted twice."""
        return await self._ask(network, None if moves else self._at_once, None, enters=True)

    def leave(self, network: str) -> None:
        """Counts the end of a call."""
        self._board.leave.remote(self._replica, network)

    async def _ask(self, network: str, at_once: int | None, starts: int | None, enters: bool) -> str | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                refusal = await self._board.admit.remote(self._replica, network, at_once, starts, enters)
        except (RayError, TimeoutError) as error:
            if not self._is_silent:
                _log.warning(
                    "the calls in other replicas cannot be counted (%s): limits of addresses hold for each "
                    "replica alone",
                    type(error).__name__,
                )
            self._is_silent = True
            return None
        if self._is_silent:
            self._is_silent = False
            _log.warning("limits of addresses hold across replicas again")
        return refusal


def refusal_of(
    counts: AddressCounts, network: str, at_once: int | None, starts: int | None, now: float
) -> str | None:
    """Counts the beginning of a call; returns why it may not be one."""
    try:
        counts.begin(network, at_once, starts, now)
    except TooMany as error:
        return str(error)
    return None
