"""Times Moshi's frame step: Kyutai's script of this name, by its options, run by `moshi-agent bench`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import torch
from torch.profiler import profile

from moshi_agent.cli.bench import bench
from moshi_agent.cli.command_line import SingleCommand
from moshi_agent.cli.kyutai_files import GivenFiles, as_model, file_options


@click.command(cls=SingleCommand)
@file_options
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.device_count() else "cpu", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Write trace.json, for chrome://tracing.")
@click.option("--lora-weight", type=Path, help="Changes nothing: updates are added to the weights before.")
@click.option("--no_fuse_lora", is_flag=True, help="Changes nothing, likewise.")
def main(
    steps: int, device: str, profiled: bool, lora_weight: Path | None, no_fuse_lora: bool, **files: Any
) -> None:
    """Time encoder, both transformers and decoder, one frame after the other, of one conversation.

    Audio and text are not kept: `moshi-agent run` writes them down.
    """
    with as_model(GivenFiles(**files)) as model, profile() if profiled else nullcontext() as profiler:
        arguments = ["--model", model, "--frames", str(steps), "--device", device]
        bench.main(arguments, prog_name="moshi-agent bench", standalone_mode=False)
    if profiler is not None:
        profiler.export_chrome_trace("trace.json")


if __name__ == "__main__":
    main()
