"""What the replicas know of each other: a small actor to which each of them reports."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import secrets
import time
from typing import Any

import ray

from moshi_agent_adapters.ray.address_counts import AddressCounts, refusal_of
from moshi_agent_adapters.ray.report import Report

_NAMESPACE = "moshi_agent"
_FORGOTTEN_S = 10.0  # without a report
_COUNTED_S = 3.0  # likewise, its calls: who was cut off with it may call again
_KEPT_S = 60.0  # for a client to come back


class Board:
    """Keeps the last report of each replica, the calls of each address, and conversations that move."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, Report]] = {}
        self._moving: dict[str, tuple[float, bytes]] = {}
        self._counts = AddressCounts()

    def report(self, report: Report) -> None:
        """Takes a report."""
        self._reports[report.replica] = time.monotonic(), report
        self._counts.report(report.replica, report.calls)

    def reports(self) -> list[Report]:
        """Returns the reports of all that run."""
        since = time.monotonic() - _FORGOTTEN_S
        self._reports = {name: entry for name, entry in self._reports.items() if entry[0] > since}
        return [report for _, report in self._reports.values()]

    def admit(
        self, replica: str, network: str, at_once: int | None, starts_per_minute: int | None, enters: bool
    ) -> str | None:
        """Counts the beginning of a call, and the call where it enters. Returns why it may not be one.

        The limits are those of `AddressCounts.begin`.
        """
        now = time.monotonic()
        self._counts.keep(
            {replica, *(name for name, (at, _) in self._reports.items() if at > now - _COUNTED_S)}
        )
        refusal = refusal_of(self._counts, network, at_once, starts_per_minute, now)
        if refusal is None and enters:
            self._counts.connect(replica, network)
        return refusal

    def leave(self, replica: str, network: str) -> None:
        """Counts the end of a call."""
        self._counts.leave(replica, network)

    def keep(self, token: str, snapshot: bytes) -> None:
        """Keeps a conversation for a while, and no longer those that nobody has come for."""
        now = time.monotonic()
        self._moving = {name: entry for name, entry in self._moving.items() if entry[0] > now - _KEPT_S}
        self._moving[token] = now, snapshot

    def take(self, token: str) -> bytes | None:
        """Gives a conversation out, once."""
        return self._moving.pop(token, (0.0, None))[1]


class BoardHandover:
    """Hands conversations over by way of the board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    async def give(self, snapshot: bytes) -> str:
        """Keeps a conversation, and returns the token for which it is given out."""
        token = secrets.token_urlsafe(32)
        await self.give_back(token, snapshot)
        return token

    async def give_back(self, token: str, snapshot: bytes) -> None:
        """Keeps a conversation under a token that there is."""
        await self._board.keep.remote(token, snapshot)

    async def take(self, token: str) -> bytes | None:
        """Gives a conversation out, once."""
        return await self._board.take.remote(token)


def board_of(app_name: str) -> Any:
    """Returns the board of an application, which is made when the first one asks for it."""
    options = {"lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "num_cpus": 0}
    return ray.remote(Board).options(name=f"board of {app_name}", namespace=_NAMESPACE, **options).remote()
