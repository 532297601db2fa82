"""What an engine and its conversations count and measure. Numbers only: nothing of what is said.

    Metrics          of an engine, in all        -> EngineMetrics
    SessionMetrics   of one of its conversations -> SessionReport

What a conversation records is counted in its engine as well, from `Metrics.opened` on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from moshi_agent.engine.metrics.histogram import Distribution, Histogram

# Around the 80 ms of a frame, where it matters.
_SECONDS = (
    *(0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04),
    *(0.06, 0.08, 0.1, 0.12, 0.16, 0.24, 0.4, 0.8, 1.6, 5.0),
)
_BACKLOG_S = (0.0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.8, 1.6, 3.2, 10.0, 30.0)
_BATCH_SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256)
_RECENT_OF_ENGINE = 8192  # frames: over a minute of eight conversations
_RECENT_OF_SESSION = 1024  # frames: 82 s


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """Holds the figures of one conversation at one moment."""

    frames: int  # of input heard
    stalled_frames: int  # silences heard where input was missing
    skipped_frames: int  # silent input left out to catch up
    dropped_silent_samples: int  # digital silence left out of the output to catch up
    dropped_audible_samples: int  # output that nobody took
    latency_s: Distribution  # from a frame's last sample to the audio it gives
    backlog_s: float  # input that waited at the last frame


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """Holds the figures of an engine at one moment, since its start."""

    step_s: Distribution  # of a frame step
    listening_s: Distribution  # of the recogniser's step after it, where the engine has one
    batch_size: Distribution  # conversations in a step
    queue_wait_s: Distribution  # from the arrival of a frame to its step
    latency_s: Distribution  # from a frame's last sample to the audio it gives
    backlog_s: Distribution  # input of a conversation that waits at each of its frames
    frames: int
    stalled_frames: int
    skipped_frames: int
    dropped_silent_samples: int
    dropped_audible_samples: int
    live_sessions: int
    opened_sessions: int
    refused_sessions: int
    errors: int  # conversations that a fault ended
    restarts: int  # of the engine after a fault
    healthy: bool


class _Tally:
    """The counts that a conversation and an engine have in common."""

    def __init__(self, recent: int) -> None:
        self.frames = 0
        self.stalled_frames = 0
        self.skipped_frames = 0
        self.dropped_silent_samples = 0
        self.dropped_audible_samples = 0
        self.latency_s = Histogram(_SECONDS, recent)

    def frame(self, latency_s: float | None, skipped: int, stalled: bool) -> None:
        if stalled:
            self.stalled_frames += 1
        else:
            self.frames += 1
        self.skipped_frames += skipped
        if latency_s is not None:
            self.latency_s.observe(latency_s)

    def dropped(self, samples: int, silent: bool) -> None:
        if silent:
            self.dropped_silent_samples += samples
        else:
            self.dropped_audible_samples += samples


class SessionMetrics:
    """Records one conversation. Each figure is written by one thread at a time and read by any."""

    def __init__(self) -> None:
        self._tally = _Tally(_RECENT_OF_SESSION)
        self._backlog_s = 0.0
        self._engine: Metrics | None = None

    def frame(
        self,
        *,
        latency_s: float | None,
        skipped: int = 0,
        stalled: bool = False,
        waited_s: float | None = None,
        backlog_s: float = 0.0,
    ) -> None:
        """Notes that the conversation has been through a step.

        Args:
            latency_s: from the last sample of its frame to now; None where it brought no input.
            skipped: silent frames left out just before.
            stalled: it heard silence since its input was missing.
            waited_s: from the arrival of its frame to the step; None where it brought no input.
            backlog_s: input that waits behind the frame.
        """
        self._backlog_s = backlog_s
        self._tally.frame(latency_s, skipped, stalled)
        engine = self._engine
        if engine is not None:
            engine.count_frame(latency_s, skipped, stalled, waited_s, backlog_s)

    def dropped(self, samples: int, *, silent: bool = True) -> None:
        """Notes that output was left out: digital silence to catch up, or audio that nobody took."""
        self._tally.dropped(samples, silent)
        engine = self._engine
        if engine is not None:
            engine.count_dropped(samples, silent)

    def snapshot(self) -> SessionReport:
        """Returns the figures as they are now."""
        tally = self._tally
        return SessionReport(
            frames=tally.frames,
            stalled_frames=tally.stalled_frames,
            skipped_frames=tally.skipped_frames,
            dropped_silent_samples=tally.dropped_silent_samples,
            dropped_audible_samples=tally.dropped_audible_samples,
            latency_s=tally.latency_s.read(),
            backlog_s=self._backlog_s,
        )

    def attach(self, engine: Metrics | None) -> bool:
        """Counts in this engine from now on, or in none. Returns whether that is a change."""
        changed, self._engine = self._engine is not engine, engine
        return changed


class Metrics:
    """Records an engine. Any thread may write, one after the other; readers hold up no writer."""

    def __init__(self) -> None:
        self._writing = threading.Lock()
        self._tally = _Tally(_RECENT_OF_ENGINE)
        self._step_s = Histogram(_SECONDS, _RECENT_OF_ENGINE)
        self._listening_s = Histogram(_SECONDS, _RECENT_OF_ENGINE)
        self._batch_size = Histogram(_BATCH_SIZES, _RECENT_OF_ENGINE)
        self._queue_wait_s = Histogram(_SECONDS, _RECENT_OF_ENGINE)
        self._backlog_s = Histogram(_BACKLOG_S, _RECENT_OF_ENGINE)
        self._live = self._opened = self._refused = self._errors = self._restarts = 0
        self._healthy = True

    def step(self, seconds: float, batch_size: int) -> None:
        """Notes a frame step."""
        with self._writing:
            self._step_s.observe(seconds)
            self._batch_size.observe(batch_size)

    def listened(self, seconds: float) -> None:
        """Notes a step of the recogniser."""
        with self._writing:
            self._listening_s.observe(seconds)

    def opened(self, session: SessionMetrics) -> None:
        """Notes that a conversation begins; what it records counts here from now on."""
        with self._writing:
            if session.attach(self):
                self._opened += 1
                self._live += 1

    def closed(self, session: SessionMetrics) -> None:
        """Notes that a conversation is over. Once is enough."""
        with self._writing:
            if session.attach(None):
                self._live -= 1

    def refused(self) -> None:
        """Notes a conversation that found no room."""
        with self._writing:
            self._refused += 1

    def error(self) -> None:
        """Notes a fault that ended a conversation."""
        with self._writing:
            self._errors += 1

    def restarted(self) -> None:
        """Notes that the engine was rebuilt after a fault."""
        with self._writing:
            self._restarts += 1

    def set_healthy(self, healthy: bool) -> None:
        """Sets whether the engine takes conversations."""
        self._healthy = healthy

    def restart_percentiles(self) -> None:
        """Has the percentiles cover what comes from now on; everything else stays."""
        with self._writing:
            for histogram in (
                *(self._step_s, self._listening_s),
                *(self._batch_size, self._queue_wait_s, self._backlog_s),
            ):
                histogram.restart_percentiles()
            self._tally.latency_s.restart_percentiles()

    def count_frame(
        self, latency_s: float | None, skipped: int, stalled: bool, waited_s: float | None, backlog_s: float
    ) -> None:
        """Adds what `SessionMetrics.frame` was told."""
        with self._writing:
            self._tally.frame(latency_s, skipped, stalled)
            self._backlog_s.observe(backlog_s)
            if waited_s is not None:
                self._queue_wait_s.observe(waited_s)

    def count_dropped(self, samples: int, silent: bool) -> None:
        """Adds what `SessionMetrics.dropped` was told."""
        with self._writing:
            self._tally.dropped(samples, silent)

    def snapshot(self) -> EngineMetrics:
        """Returns the figures as they are now."""
        tally = self._tally
        return EngineMetrics(
            step_s=self._step_s.read(),
            listening_s=self._listening_s.read(),
            batch_size=self._batch_size.read(),
            queue_wait_s=self._queue_wait_s.read(),
            latency_s=tally.latency_s.read(),
            backlog_s=self._backlog_s.read(),
            frames=tally.frames,
            stalled_frames=tally.stalled_frames,
            skipped_frames=tally.skipped_frames,
            dropped_silent_samples=tally.dropped_silent_samples,
            dropped_audible_samples=tally.dropped_audible_samples,
            live_sessions=self._live,
            opened_sessions=self._opened,
            refused_sessions=self._refused,
            errors=self._errors,
            restarts=self._restarts,
            healthy=self._healthy,
        )
