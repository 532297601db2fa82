"""A checkpoint put together from single files, as Kyutai's commands take them: one folder for ours."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True)
_DEFAULT_REPO = "kyutai/moshiko-pytorch-bf16"  # as `loaders.DEFAULT_REPO`, which would load torch

_OPTIONS = (
    click.option(
        "--hf-repo",
        default=_DEFAULT_REPO,
        show_default=True,
        metavar="REPO|FOLDER|tiny",
        help="A Hugging Face repository, a folder with a checkpoint, or the built-in model.",
    ),
    click.option("--moshi-weight", type=_FILE, help="Weights of Moshi instead of the checkpoint's own."),
    click.option("--mimi-weight", type=_FILE, help="Weights of Mimi, likewise."),
    click.option("--tokenizer", type=_FILE, help="The text tokenizer, likewise."),
    click.option("--config-path", type=_FILE, help="The config.json, likewise."),
)


@dataclass(frozen=True, kw_only=True)
class GivenFiles:
    """Holds what the options name; None leaves it to the checkpoint."""

    hf_repo: str
    moshi_weight: Path | None
    mimi_weight: Path | None
    tokenizer: Path | None
    config_path: Path | None

    @property
    def any_given(self) -> bool:
        return any((self.moshi_weight, self.mimi_weight, self.tokenizer, self.config_path))


def file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that `GivenFiles` is made of."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def as_model(files: GivenFiles, cfg_coef: float | None = None) -> Generator[str]:
    """Names the checkpoint for `--model`: where files are given, a folder that points at them.

    Args:
        cfg_coef: classifier-free guidance, instead of what the checkpoint advises.

    Raises:
        CheckpointError, ConfigError: as `CheckpointInfo.from_hf_repo` does.
    """
    if not files.any_given and cfg_coef is None:
        yield files.hf_repo
        return
    with TemporaryDirectory(prefix="moshi-agent-") as folder:
        _write_folder(Path(folder), files, cfg_coef)
        yield folder


def _write_folder(folder: Path, files: GivenFiles, cfg_coef: float | None) -> None:
    """Writes the checkpoint's own `config.json`, its names replaced by where the files are."""
    from moshi_agent.checkpoint.write import write_json
    from moshi_agent.models.loaders import CheckpointInfo

    info = CheckpointInfo.from_hf_repo(
        files.hf_repo,
        moshi_weights=files.moshi_weight,
        mimi_weights=files.mimi_weight,
        tokenizer=files.tokenizer,
        config_path=files.config_path,
    )
    config = dict(info.raw_config or {})
    named = {
        "moshi_name": info.moshi_weights,
        "mimi_name": info.mimi_weights,
        "tokenizer_name": info.tokenizer,
        "lora_name": info.lora_weights,
    }
    config |= {key: f"file://{path.resolve()}" for key, path in named.items() if path is not None}
    if cfg_coef is not None:
        config["lm_gen_config"] = info.lm_gen_config | {"cfg_coef": cfg_coef}
    if info.mimi_config is not None:
        config["mimi_config_name"] = "mimi_config.json"
        write_json(folder / "mimi_config.json", info.mimi_config)
    if info.voices is not None:
        (folder / info.voices.name).symlink_to(info.voices.resolve())
    write_json(folder / "config.json", config)
