"""`moshi-agent bench`: how long a frame step of a model takes on this machine."""

from __future__ import annotations

import click

from moshi_agent.cli.options import device_option, model_option, threads_option


@click.command()
@model_option
@device_option
@click.option("--frames", type=click.IntRange(1, 100_000), default=250, show_default=True, help="80 ms each.")
@threads_option
def bench(model: str, device: str, frames: int, threads: int) -> None:
    """Time the frame step of one conversation: encode, both transformers, decode."""
    from moshi_agent.cli.step_times import print_step_times

    print_step_times(model, device, frames, threads)
