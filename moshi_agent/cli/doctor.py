"""`moshi-agent doctor`: the options. The work is in `diagnosis.py`, which is imported when there is some."""

from __future__ import annotations

import click

from moshi_agent.cli.options import lora_option, model_option


@click.command()
@model_option
@lora_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--most",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Conversations whose step is timed: 1, 4, 16 and so on, up to so many that fit.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a report of a fault.")
def doctor(model: str, lora: str | None, device: str, most: int, as_json: bool) -> None:
    """Tell what this machine is good for: which models fit, whether the fast paths are right, and how fast.

    Compares each fast path (CUDA graphs, kernels, packed weights) with the plain one on this very device.
    Without a GPU it says what the CPU can do. The last line says what to do.
    """
    from moshi_agent.cli.diagnosis import Doctor, examine

    examine(Doctor(model=model, lora=lora, device=device, most=most, as_json=as_json))
