"""Options that several sub-commands have, and the checks that click does not do."""

from __future__ import annotations

import re
from typing import Any

import click

model_option = click.option(
    "--model",
    default="tiny",
    show_default=True,
    metavar="tiny|REPO|FOLDER",
    help="The built-in model, a Hugging Face repository, or a folder with a checkpoint.",
)


lora_option = click.option(
    "--lora",
    metavar="FILE",
    help="Low-rank updates to use with the model, as `moshi-agent train lm` makes them: lora.safetensors.",
)


def _device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r} is no device: cpu, cuda, cuda:N and mps are accepted")
    return value


device_option = click.option(
    "--device", default="cpu", show_default=True, callback=_device, help="cpu, cuda, cuda:N or mps."
)


# One by default: a second thread that has to wait for a busy core makes a short step many times longer.
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of the CPU."
)


_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")

dtype_option = click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    help="Of the language model; by default what suits the device. int8 takes half the memory, int4 less.",
)
kv_cache_option = click.option(
    "--kv-cache",
    type=click.Choice(["auto", "float", "int8"]),
    default="auto",
    show_default=True,
    help="How the temporal transformer's cache is stored.",
)
cuda_graphs_option = click.option(
    "--no-cuda-graphs",
    "cuda_graphs",
    flag_value=False,
    default=True,
    help="On CUDA, launch every kernel by itself: slower, and needs less memory.",
)


class UpTo(click.FloatRange):
    """A number from 0 on. Click's own range takes "nan" for being within any."""

    def __init__(self, largest: float) -> None:
        super().__init__(0, largest)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is no number: 0 to {self.max:g} are accepted", param, ctx)
        return number


class Seconds(UpTo):
    """A number of seconds within bounds."""
