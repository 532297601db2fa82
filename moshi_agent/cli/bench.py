"""`moshi-agent bench`: how long a model takes on this machine, for one conversation or for many at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from moshi_agent.cli.options import (
    Seconds,
    cuda_graphs_option,
    device_option,
    dtype_option,
    kv_cache_option,
    model_option,
    threads_option,
)

if TYPE_CHECKING:
    from moshi_agent.config import KVCache


class _CallerOptions(TypedDict):
    """Click passes the options that `many_calls.Benchmark` takes as they are."""

    model: str
    device: str
    threads: int
    sessions: tuple[int, ...]
    find_most: int | None
    seconds: float
    warm_up: float
    rate: int
    jitter: float
    process: bool
    dtype: str | None
    kv_cache: KVCache
    cuda_graphs: bool
    full_context: bool
    json: Path | None


_NUMBER = click.IntRange(1, 4096)


@click.command()
@model_option
@device_option
@threads_option
@click.option("--frames", type=click.IntRange(1, 100_000), default=250, show_default=True, help="80 ms each.")
@click.option(
    "--sessions", type=_NUMBER, multiple=True, metavar="N", help="Callers in real time; may be repeated."
)
@click.option(
    "--find-most",
    type=_NUMBER,
    metavar="LIMIT",
    help="Find how many callers are served in time, up to LIMIT.",
)
@click.option(
    "--seconds", type=Seconds(86_400), default=30.0, show_default=True, help="For each number of them."
)
@click.option("--warm-up", type=Seconds(600), default=3.0, show_default=True, help="Seconds left out before.")
@click.option(
    "--rate",
    type=click.IntRange(4_000, 192_000),
    default=16_000,
    show_default=True,
    help="Callers' audio, Hz.",
)
@click.option(
    "--jitter",
    type=click.FloatRange(0, 1000),
    default=10.0,
    show_default=True,
    help="Of their 20 ms chunks, ms.",
)
@click.option(
    "--process/--no-process", default=True, help="The engine in a process of its own (default), or not."
)
@dtype_option
@kv_cache_option
@cuda_graphs_option
@click.option(
    "--full-context", is_flag=True, help="Callers whose conversations have filled the model's context."
)
@click.option("--json", type=click.Path(path_type=Path, dir_okay=False), help="Where the metrics go as well.")
def bench(frames: int, **options: Unpack[_CallerOptions]) -> None:
    """Time the frame step: encode, both transformers, decode.

    By itself, of one conversation as fast as it goes. With --sessions or --find-most, of an engine with so
    many callers, who ask the sample questions in real time. A number of them holds when the 99th percentile
    of the latency is under 80 ms and nothing was skipped.
    """
    if options["sessions"] or options["find_most"]:
        from moshi_agent.cli.many_calls import Benchmark, print_call_metrics

        print_call_metrics(Benchmark(**options))
        return
    if options["json"] is not None or options["full_context"]:
        raise click.UsageError("--json and --full-context go with --sessions or --find-most")
    from moshi_agent.cli.model import On
    from moshi_agent.cli.step_times import print_step_times

    on = On(
        device=options["device"],
        threads=options["threads"],
        dtype=options["dtype"],
        kv_cache=options["kv_cache"],
        cuda_graphs=options["cuda_graphs"],
    )
    print_step_times(options["model"], on, frames)
