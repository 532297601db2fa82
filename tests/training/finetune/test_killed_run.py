"""A run that is killed goes on to the very weights that it would have had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moshi_agent.training.finetune.config_file import read_finetune_config
from moshi_agent.training.finetune.run import finetune
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints, read_state
from tests.training.finetune.finetune_material import conversations, metrics

STEPS = 40


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """Of a run on recordings, with all that is random switched on."""
    return {
        "data": {"train_data": str(conversations(tmp_path / "calls")), "shift_crops": True},
        "moshi_paths": {"hf_repo_id": str(checkpoint)},
        "lora": {"enable": True, "rank": 4, "ft_embed": True},
        "noise": {"own": 0.05, "user": 0.05},
        "depth_share": 0.5,
        "optim": {"lr": 1e-2},
        "batch_size": 3,
        "num_microbatches": 2,
        "duration_sec": 0.8,
        "max_steps": STEPS,
        "ckpt_freq": 7,
        "seed": 4,
        "param_dtype": "float32",
    }


def _config(settings: dict[str, Any], run_dir: Path) -> Path:
    path = run_dir.with_suffix(".yaml")
    path.write_text(json.dumps(settings | {"run_dir": str(run_dir)}))  # JSON is YAML, too
    return path


def _command(config: Path) -> list[str]:
    return [sys.executable, "-m", "moshi_agent", "train", "lm", "--config", str(config)]


def _kill_when(config: Path, moment: Callable[[], bool]) -> None:
    """Starts the run, and ends it without a word when the moment has come."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(_command(config), stdout=subprocess.DEVNULL, env=environment) as process:
        while not moment():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.0005)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def _lines(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _assert_equal_runs(one: Path, other: Path) -> None:
    """Weights, the optimizer's state, what is written for others, and the metrics of every step."""
    (first, second) = (RunCheckpoints(run_dir, keep=3).newest() for run_dir in (one, other))
    assert first is not None and second is not None and first.name == second.name
    states = read_state(first), read_state(second)
    assert states[0]["step"] == STEPS
    for name, weight in states[0]["weights"].items():
        assert torch.equal(weight, states[1]["weights"][name]), name
        for kind, value in states[0]["optimizer"]["state"][name].items():
            assert torch.equal(value, states[1]["optimizer"]["state"][name][kind]), (name, kind)
    files = [(path / "consolidated" / "lora.safetensors").read_bytes() for path in (first, second)]
    assert files[0] == files[1]
    assert metrics(one) == metrics(other)
    assert [line["step"] for line in metrics(one)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_bit_equal(settings: dict[str, Any], tmp_path: Path) -> None:
    """Killed between two checkpoints."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        finetune(read_finetune_config(_config(settings, whole)))
        config = _config(settings, killed)
        _kill_when(config, lambda: _lines(killed) >= 17)
        newest = RunCheckpoints(killed, keep=3).newest()
        assert newest is not None and newest.name < "checkpoint_000021"
        finetune(read_finetune_config(config))
    finally:
        torch.set_num_threads(threads)
    _assert_equal_runs(whole, killed)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_bit_equal(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Before its first checkpoint, in the middle of writing one, and then at any step."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(_command(_config(settings, whole)), check=True)
    config = _config(settings, killed)
    folder = killed / "checkpoints"
    moments: list[Callable[[], bool]] = [
        lambda: _lines(killed) >= 3,
        lambda: any(folder.glob(".checkpoint_*.part")),
        lambda: any(folder.glob(".checkpoint_*.part/*/lora.safetensors")),
        lambda: _lines(killed) >= 23,
        lambda: _lines(killed) >= 37,
    ]
    for moment in moments:
        _kill_when(config, moment)
    assert not (folder / f"checkpoint_{STEPS:06d}").exists()
    subprocess.run(_command(config), check=True)
    _assert_equal_runs(whole, killed)
    assert not any(folder.glob(".*"))
