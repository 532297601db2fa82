"""Who is let in: now, when a row becomes free, or not at all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from moshi_agent.engine.capacity import StepTimes
from moshi_agent.engine.commands import Key, Open
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.inbox import Request
from moshi_agent.engine.metrics.metrics import Metrics
from moshi_agent.errors import EngineFull, MoshiAgentError, SessionClosed
from moshi_agent.plural import counted


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    until: float  # on the clock that is passed in


class Admission:
    """Says why nobody can be let in, and holds those who wait for a row, first come first served.

    It has no clock: `now`, in seconds, is passed in.
    """

    def __init__(self, config: EngineConfig, times: StepTimes, metrics: Metrics) -> None:
        self._config, self._times, self._metrics = config, times, metrics
        self._waiting: deque[_Waiting] = deque()
        self._is_draining = False
        self._drained_at: float | None = None

    def free(self, live: int) -> int:
        """Tells how many can join so many live conversations now. Any thread may ask."""
        return max(0, self._limit() - live)

    def _limit(self) -> int:
        """Conversations that may be live at once: the first one however long its step takes."""
        rows = self._config.capacity
        if self._is_draining:
            return 0
        return min(rows, max(1, self._times.most_rows(rows))) if self._config.admit_by_time else rows

    def refusal(self, live: int) -> EngineFull | None:
        """Says why nobody can join so many live conversations now, if so. Any thread may ask."""
        if self.free(live):
            return None
        if self._is_draining:
            return self._is_shutting_down(live)
        rows = self._config.capacity
        if live >= rows:
            return EngineFull(f"no row is free: {counted(live, 'conversation')}, capacity {rows}")
        expected = self._times.expected_ms(live + 1)
        return EngineFull(
            f"no time is left: a step with {live + 1} conversations would take {expected:.0f} ms "
            f"of the {self._times.budget_ms:.0f} ms there are"
        )

    @staticmethod
    def _is_shutting_down(live: int) -> EngineFull:
        return EngineFull(f"the engine is shutting down, with {counted(live, 'conversation')} left")

    def hold(self, request: Request, refusal: MoshiAgentError, now: float) -> None:
        """Keeps who was refused waiting. Raises the refusal where no wait would help, or too many wait."""
        may_wait = isinstance(refusal, EngineFull) and not self._is_draining
        if not may_wait or len(self._waiting) >= self._config.waiting:
            self._metrics.refused()
            raise refusal
        self._waiting.append(_Waiting(request, now + self._config.wait_timeout_s))

    def next(self, live: int) -> Request | None:
        """Returns the first of those who wait, if there is room now."""
        if not self._waiting or self.refusal(live) is not None:
            return None
        return self._waiting.popleft().request

    def withdraw(self, key: Key) -> None:
        """Withdraws a conversation that waits no longer."""
        for waiting in list(self._waiting):
            command = waiting.request.command
            if isinstance(command, Open) and command.key == key:
                self._waiting.remove(waiting)
                waiting.request.refuse(SessionClosed("closed while it waited for a free row"))

    def refuse_late(self, live: int, now: float) -> None:
        """Refuses those who have waited for as long as they may."""
        while self._waiting and self._waiting[0].until <= now:
            self._metrics.refused()
            refusal = self.refusal(live) or EngineFull("no row became free in time")
            self._waiting.popleft().request.refuse(refusal)

    def refuse_all(self, error: MoshiAgentError) -> None:
        """Refuses all who wait."""
        while self._waiting:
            self._metrics.refused()
            self._waiting.popleft().request.refuse(error)

    def drain(self, live: int, until: float) -> None:
        """Lets nobody in any more; who is in may stay until then."""
        self._is_draining = True
        self._drained_at = until
        self.refuse_all(self._is_shutting_down(live))

    def is_drained(self, now: float) -> bool:
        """Tells whether those who are in have to leave. True once."""
        if self._drained_at is None or now < self._drained_at:
            return False
        self._drained_at = None
        return True

    @property
    def wake_at(self) -> float | None:
        """When something is to be done here though nobody asks."""
        times = [self._drained_at, *(waiting.until for waiting in self._waiting)]
        return min((at for at in times if at is not None), default=None)
