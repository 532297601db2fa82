"""Figures that Pipecat has no words for."""

from __future__ import annotations

from pipecat.metrics.metrics import MetricsData


class MoshiMetricsData(MetricsData):
    """Tells after each turn of the bot how the engine keeps up.

    Parameters:
        step_s: Median time of a frame step, of all conversations at once, in seconds.
        real_time_factor: That time as a part of the 80 ms there are.
        backlog_s: Input of this conversation that waits for the engine, in seconds.
        dropped_silence_s: Silence left out of this conversation's output so far to catch up, in seconds.
    """

    step_s: float
    real_time_factor: float
    backlog_s: float
    dropped_silence_s: float
