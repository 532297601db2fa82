"""`moshi-agent train`: the codec, the language model, or the built-in model by its recipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from moshi_agent.cli.options import device_option, threads_option

_PATH = click.Path(path_type=Path)


@click.group()
def train() -> None:
    """Train models."""


@train.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def tiny(arguments: tuple[str, ...]) -> None:
    """Train the built-in model from synthetic speech (`tiny --help` shows the options)."""
    with _naming_what_is_missing():
        from moshi_agent.training.tiny import recipe
    recipe.main(list(arguments))


@train.command()
@click.option("--config", required=True, type=_PATH, help="A TOML file, such as examples/train_mimi.toml.")
@device_option
@threads_option
def mimi(config: Path, device: str, threads: int) -> None:
    """Train or fine-tune a codec on recordings of speech.

    A run that was stopped goes on where its folder's newest checkpoint is. For several GPUs, run
    `torchrun --nproc-per-node N -m moshi_agent train mimi --config FILE --device cuda`.
    """
    with _naming_what_is_missing():
        import torch

        from moshi_agent.cli.model import check_device
        from moshi_agent.training.mimi.config import MimiTraining
        from moshi_agent.training.mimi.run import train_mimi
        from moshi_agent.training.runs.settings import read_settings
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    settings = read_settings(config, MimiTraining)
    check_device(device)
    torch.set_num_threads(threads)
    checkpoint = train_mimi(settings, device)
    if checkpoint is not None:
        click.echo(f"the trained codec is in {checkpoint}/consolidated")


@train.command()
@click.option(
    "--config", required=True, type=_PATH, help="A YAML or TOML file, such as examples/finetune.yaml."
)
@device_option
@threads_option
def lm(config: Path, device: str, threads: int) -> None:
    """Fine-tune a language model on stereo conversations, whole or by low-rank updates (LoRA).

    The file has the keys of moshi-finetune, whose own files are read as they are; the conversations are in
    its layout, too, for which `moshi-agent annotate` writes down the words.

    A run that was stopped goes on where its folder's newest checkpoint is. For several GPUs, run
    `torchrun --nproc-per-node N -m moshi_agent train lm --config FILE --device cuda`.
    """
    with _naming_what_is_missing():
        import torch

        from moshi_agent.cli.model import check_device
        from moshi_agent.training.finetune.config_file import read_finetune_config
        from moshi_agent.training.finetune.run import finetune
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    settings = read_finetune_config(config)
    check_device(device)
    torch.set_num_threads(threads)
    checkpoint = finetune(settings, device=device)
    if checkpoint is not None and os.environ.get("RANK", "0") == "0":
        click.echo(f"the trained weights are in {checkpoint}/consolidated")


@contextmanager
def _naming_what_is_missing() -> Generator[None]:
    """Says which package of the `train` extra an import has not found."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("moshi_agent"):
            raise
        hint = "pip install 'moshi-agent[train]'"
        raise click.ClickException(f"training needs the package {error.name}: {hint}") from error
