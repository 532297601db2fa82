"""Two processes that share a model take the steps that one takes with twice as many batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.finetune.run import finetune
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints, read_state
from moshi_agent.training.runs.settings import build_settings
from tests.training.finetune.finetune_material import Echoes, metrics

ROOT = Path(__file__).parents[3]


def _settings(checkpoint: Path, run_dir: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run_dir": str(run_dir),
        "moshi_paths": {"hf_repo_id": str(checkpoint)},
        "lora": {"enable": True, "rank": 4, "ft_embed": True},
        "optim": {"lr": 1e-2},
        "batch_size": 2,
        "num_microbatches": 1,
        "max_steps": 6,
        "ckpt_freq": 3,
        "do_eval": True,
        "sample_freq": 6,
        "sample_sec": 0.5,
        "depth_share": 0.5,
        "noise": {"own": 0.1},
        "param_dtype": "float32",
    }
    return values | changes


def _alone(settings: dict[str, Any]) -> Path | None:
    return finetune(build_settings(settings, FineTuneConfig), train=Echoes(), evaluation=Echoes())


def _together(settings: dict[str, Any]) -> None:
    """In two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    module = ["-m", "tests.training.finetune.sharing_process", json.dumps(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *module],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def _state(run_dir: Path) -> dict[str, Any]:
    newest = RunCheckpoints(run_dir, keep=0).newest()
    assert newest is not None
    return read_state(newest)


def _assert_close_runs(one: Path, other: Path) -> None:
    for kind in ("train", "eval"):
        for ours, theirs in zip(metrics(one, kind), metrics(other, kind), strict=True):
            assert {name: v for name, v in ours.items() if name != "kind"} == pytest.approx(
                {name: v for name, v in theirs.items() if name != "kind"}, rel=1e-4
            )
    first, second = _state(one)["weights"], _state(other)["weights"]
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"full_finetuning": True, "lora": {"enable": False}, "gradient_checkpointing": False},
    ],
    ids=["updates", "full"],
)
def test_two_processes_do_what_one_does(checkpoint: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Low-rank updates with their layers recomputed, and a whole model without; what is written is whole."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    _alone(_settings(checkpoint, alone, num_microbatches=2, **changes))
    _together(_settings(checkpoint, together, **changes))
    _assert_close_runs(alone, together)
    assert len(list((together / "samples").glob("*.wav"))) == 2
    newest = RunCheckpoints(together, keep=0).newest()
    assert newest is not None
    lora = newest / "consolidated" / "lora.safetensors"
    loaded = (
        load_checkpoint(checkpoint, lora=lora) if not changes else load_checkpoint(newest / "consolidated")
    )
    assert loaded.lm is not None


@pytest.mark.slow
def test_two_processes_go_on_from_what_one_has_written(checkpoint: Path, tmp_path: Path) -> None:
    alone, again = tmp_path / "alone", tmp_path / "again"
    _alone(_settings(checkpoint, alone, num_microbatches=2))
    settings = _settings(checkpoint, again, num_microbatches=2)
    _stopped_half_way(settings, again)
    _together(settings | {"num_microbatches": 1})
    _assert_close_runs(alone, again)


@pytest.mark.slow
def test_two_processes_compute_in_bfloat16(checkpoint: Path, tmp_path: Path) -> None:
    """The same as one, as far as that type goes."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    _alone(_settings(checkpoint, alone, num_microbatches=2, param_dtype="bfloat16"))
    _together(_settings(checkpoint, together, param_dtype="bfloat16"))
    losses = [[line["loss"] for line in metrics(path)] for path in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def _stopped_half_way(settings: dict[str, Any], run_dir: Path) -> None:
    """A run as it is when it is killed after its first checkpoint."""

    class Ends(Echoes):
        def batch(self, step: int, size: int, **place: int) -> Any:
            if step >= 8:  # of two batches a step: the fifth step
                raise KeyboardInterrupt
            return super().batch(step, size, **place)

    with pytest.raises(KeyboardInterrupt):
        finetune(build_settings(settings, FineTuneConfig), train=Ends(), evaluation=Echoes())
    assert _state(run_dir)["step"] == 3


def test_another_number_of_batches_a_step_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    settings = _settings(checkpoint, tmp_path / "run", max_steps=2, do_eval=False, sample_freq=0)
    _alone(settings)
    with pytest.raises(ConfigError, match=r"num_microbatches x processes=2 \(it was 1\)"):
        _alone(settings | {"num_microbatches": 2})
