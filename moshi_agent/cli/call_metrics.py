"""What a benchmark of many conversations measured, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moshi_agent.engine.capacity import STEP_BUDGET_MS
from moshi_agent.engine.metrics.histogram import Distribution
from moshi_agent.engine.metrics.metrics import EngineMetrics

NOISY_MS = 5.0  # a quiet machine is late by less than one
_COLUMNS = (
    ("callers", 7),
    ("machine p99 ms", 14),
    ("step p50/p95/p99 ms", 20),
    ("latency p50/p95/p99 ms", 23),
    ("backlog p99 ms", 14),
    ("skipped", 7),
    ("stalled", 7),
    ("RTF", 5),
    ("RAM GB", 6),
    ("holds", 5),
)


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    p50: float
    p95: float
    p99: float

    def __str__(self) -> str:
        return f"{self.p50:.1f} / {self.p95:.1f} / {self.p99:.1f}"


@dataclass(frozen=True, kw_only=True)
class CallMetrics:
    """One number of callers, without the warm-up."""

    sessions: int
    seconds: float
    frames: int  # answered
    frame_latency_ms: Percentiles  # from the push that completes a frame to its audio at the caller
    engine_latency_ms: Percentiles  # the same up to the end of the frame's step
    step_ms: Percentiles
    queue_wait_ms: Percentiles  # from a frame's arrival to its step
    backlog_ms: Percentiles  # input that waits behind a frame
    push_late_ms: Percentiles  # by how much the callers themselves were late
    machine_late_ms: Percentiles  # by how much the machine was, asked by a process with nothing else to do
    batches: dict[str, int]  # steps by the number of conversations in them
    skipped_frames: int
    stalled_frames: int
    dropped_audible_samples: int
    real_time_factor: float  # share of the time that the engine spent in steps
    resident_bytes: int
    device_bytes: int | None

    @property
    def holds(self) -> bool:
        """Whether the callers were served in time, and whole."""
        in_time = self.frames > 0 and self.frame_latency_ms.p99 < STEP_BUDGET_MS
        return in_time and not self.skipped_frames and not self.dropped_audible_samples

    def as_json(self) -> dict[str, Any]:
        """Returns all of it, for `json.dump`."""
        return _rounded(asdict(self)) | {"holds": self.holds}


def percentiles_ms(seconds: Sequence[float]) -> Percentiles:
    """Takes percentiles of measured times; 0 where nothing was measured."""
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist() if len(seconds) else (0.0, 0.0, 0.0)
    return Percentiles(p50=1000 * p50, p95=1000 * p95, p99=1000 * p99)


def recent_ms(seconds: Distribution) -> Percentiles:
    """Takes percentiles of an engine's recent times."""
    return Percentiles(p50=1000 * seconds.p50, p95=1000 * seconds.p95, p99=1000 * seconds.p99)


def batches_between(before: EngineMetrics, after: EngineMetrics) -> dict[str, int]:
    """Steps by the conversations in them, without sizes that did not occur: `{"1": 90, "3-4": 5}`."""
    bounds = [int(bound) for bound in after.batch_size.bounds]
    lows = [1, *(bound + 1 for bound in bounds)]
    names = [str(low) if low == high else f"{low}-{high}" for low, high in zip(lows, bounds, strict=False)]
    names.append(f"{lows[-1]}-")
    counts = np.subtract(after.batch_size.buckets, before.batch_size.buckets).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def table(runs: Sequence[CallMetrics]) -> str:
    """Returns one row for each number of callers, and the batches of each below."""
    rule = "|".join("-" * (width + 2) for _, width in _COLUMNS)
    lines = [_row([name for name, _ in _COLUMNS]), f"|{rule}|", *(_row(_cells(run)) for run in runs), ""]
    for run in runs:
        batches = ", ".join(f"{size}: {count}" for size, count in run.batches.items())
        lines.append(f"{run.sessions} callers: steps by conversations in them: {batches or 'none'}")
        if run.machine_late_ms.p99 > NOISY_MS:
            lines.append(
                f"{run.sessions} callers: the machine was busy with something else: one moment in a hundred "
                f"came {run.machine_late_ms.p99:.0f} ms late or later, whatever the engine did"
            )
    return "\n".join(lines)


def _cells(run: CallMetrics) -> list[str]:
    return [
        str(run.sessions),
        f"{run.machine_late_ms.p99:.1f}",
        str(run.step_ms),
        str(run.frame_latency_ms),
        f"{run.backlog_ms.p99:.0f}",
        str(run.skipped_frames),
        str(run.stalled_frames),
        f"{run.real_time_factor:.2f}",
        f"{run.resident_bytes / 1e9:.2f}",
        "yes" if run.holds else "no",
    ]


def _row(cells: Sequence[str]) -> str:
    padded = (f" {cell:>{width}} " for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    return f"|{'|'.join(padded)}|"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
