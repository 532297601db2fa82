"""A codec's training from settings to files: what it leaves, and how it goes on after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from moshi_agent import ConfigError, DataError
from moshi_agent.checkpoint.codec import load_codec
from moshi_agent.cli.train import train
from moshi_agent.models.loaders import get_mimi
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.mimi.run import train_mimi
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints, read_state
from tests.training.mimi.codec_material import settings, trained_codec, write_recordings

Make = Callable[..., MimiTraining]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Settings of a short training, in a folder of this name."""
    write_recordings(tmp_path / "data")

    def made(name: str = "run", **changes: Any) -> MimiTraining:
        return settings(tmp_path, **{"folder": str(tmp_path / name)} | changes)

    return made


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def final_state(folder: Path) -> dict[str, Any]:
    newest = RunCheckpoints(folder, 0).newest()
    assert newest is not None
    return read_state(newest)


def assert_same_state(folder: Path, other: Path) -> None:
    ours, theirs = final_state(folder), final_state(other)
    for part in ("model", "average", "discriminator", "balancer"):
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in theirs[part].items()), part
    for part in ("optimizer", "discriminator_optimizer"):
        for index, values in theirs[part]["state"].items():
            assert all(torch.equal(ours[part]["state"][index][name], one) for name, one in values.items())
    assert ours["step"] == theirs["step"]


def test_a_run_leaves_metrics_sounds_and_a_codec(make: Make, tmp_path: Path) -> None:
    """Evaluated before the first step and on the way; the codec is the average, in Kyutai's format."""
    config = make(evaluation={"every": 2, "pieces": 2, "samples": 1})
    newest = train_mimi(config)
    assert newest is not None and newest.name == "checkpoint_000004"
    assert [row["step"] for row in metrics(config.folder, "train")] == [1, 2, 3, 4]
    assert [row["step"] for row in metrics(config.folder, "eval")] == [0, 2, 4]
    assert {"mel_distance", "usage_3", "perplexity"} <= set(metrics(config.folder, "eval")[-1])
    sounds = {path.name for path in (config.folder / "samples").iterdir()}
    assert sounds == {"original_0.wav", *(f"step_{step:06d}_0.wav" for step in (0, 2, 4))}
    assert list((config.folder / "tensorboard").iterdir())

    codec = load_codec(newest / "consolidated")
    described = json.loads((newest / "consolidated" / "mimi_config.json").read_text())
    again = get_mimi(newest / "consolidated" / "mimi.safetensors", described, num_codebooks=4)
    average = final_state(config.folder)["average"]
    assert all(torch.equal(tensor, average[name]) for name, tensor in codec.state_dict().items())
    speech = 0.1 * torch.randn(1, 1, 1920 * 3)
    with torch.no_grad():
        assert torch.equal(codec.encode(speech), again.encode(speech))
    assert next(iter(load_file(newest / "consolidated" / "mimi.safetensors").values())).dtype == torch.float32


def test_a_stopped_run_goes_on_to_the_very_same_weights(make: Make) -> None:
    whole, parts = make("whole"), make("parts")
    train_mimi(whole)
    for until in (1, 3, 4):
        train_mimi(parts, until=until)
    assert_same_state(parts.folder, whole.folder)
    assert [row["step"] for row in metrics(parts.folder, "train")] == [1, 2, 3, 4]


def test_only_what_no_step_depends_on_may_change_on_the_way(make: Make) -> None:
    config = make()
    train_mimi(config, until=1)
    train_mimi(replace(config, steps=5, checkpoint_every=1), until=2)
    with pytest.raises(ConfigError, match=r"batch=3 \(it was 2\)"):
        train_mimi(replace(config, batch=3))
    with pytest.raises(ConfigError, match=r"losses\.spectral=1"):
        train_mimi(make(losses={"spectral": 1}))


def test_a_trained_codec_is_gone_on_with(make: Make, tmp_path: Path) -> None:
    """From a folder that a run has written."""
    first = make("first")
    newest = train_mimi(first, until=2)
    codec = newest / "consolidated" if newest else tmp_path
    second = make("second", **{"from": str(codec), "codec": None, "parts": "decoder"})
    train_mimi(second, until=1)
    ours, theirs = final_state(second.folder)["model"], load_codec(codec).state_dict()
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert {name for name in ours if name.startswith(("encoder", "downsample"))} <= same


def test_wrong_data_show_before_anything_is_loaded(make: Make, tmp_path: Path) -> None:
    config = make(data={"train": str(tmp_path / "nowhere")}, **{"from": "no/such_codec", "codec": None})
    with pytest.raises(DataError, match="nowhere"):
        train_mimi(config)


def write_toml(path: Path, tmp_path: Path, codec: Path, steps: int = 4) -> Path:
    path.write_text(
        f"""
        folder = {str(path.with_suffix(""))!r}
        from = {str(codec)!r}
        steps = {steps}
        batch = 2
        frames = 4
        checkpoint_every = 1
        data = {{ train = {str(tmp_path / "data")!r} }}
        discriminator = {{ filters = 2, windows = [256] }}
        spectral = {{ windows = [256], mel_bands = 16 }}
        evaluation = {{ every = 100, pieces = 1, samples = 0 }}
        """
    )
    return path


def test_the_command_says_where_the_codec_is(make: Make, tmp_path: Path) -> None:
    del make
    path = write_toml(tmp_path / "short.toml", tmp_path, trained_codec(tmp_path / "codec"), steps=1)
    done = CliRunner().invoke(train, ["mimi", "--config", str(path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"{tmp_path}/short/checkpoints/checkpoint_000001/consolidated" in done.output


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_same_weights(make: Make, tmp_path: Path) -> None:
    """Killed as no program can prevent, somewhere between two checkpoints."""
    del make
    codec = trained_codec(tmp_path / "codec")
    killed, whole = (
        write_toml(tmp_path / f"{name}.toml", tmp_path, codec, 12) for name in ("killed", "whole")
    )
    process = start(killed)
    try:
        wait_for(lambda: RunCheckpoints(tmp_path / "killed", 0).newest() is not None, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert final_state(tmp_path / "killed")["step"] < 12
    for path in (killed, whole):
        assert start(path).wait(timeout=200) == 0
    assert_same_state(tmp_path / "killed", tmp_path / "whole")


def start(path: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "moshi_agent", "train", "mimi", "--config", str(path)], env=environment
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.01)
