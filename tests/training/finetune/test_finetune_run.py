"""A whole fine-tuning, as the command makes it."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.cli import main
from moshi_agent.errors import ConfigError, DataError, OutputError
from moshi_agent.training.finetune.config import DataConfig, LoraSettings, ModelPaths
from moshi_agent.training.finetune.run import finetune
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints
from tests.training.finetune.finetune_material import Echoes, configuration, conversations, metrics


def test_the_command_trains_on_recordings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints, metrics, sound, and a word on the recording that is no good."""
    manifest, run_dir = conversations(tmp_path / "calls", count=4), tmp_path / "run"
    (tmp_path / "calls" / "call1.wav").write_bytes(b"no audio")
    settings: dict[str, Any] = {
        "data": {"train_data": str(manifest), "eval_data": str(manifest)},
        "moshi_paths": {"hf_repo_id": str(checkpoint)},
        "lora": {"enable": True, "rank": 4},
        "batch_size": 2,
        "duration_sec": 1.0,
        "max_steps": 6,
        "ckpt_freq": 2,
        "num_ckpt_keep": 2,
        "do_eval": True,
        "eval_freq": 3,
        "sample_freq": 6,
        "run_dir": str(run_dir),
    }
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(settings))
    with pytest.raises(SystemExit) as ended:
        main(["train", "lm", "--config", str(config)])
    assert ended.value.code == 0
    last = run_dir / "checkpoints" / "checkpoint_000006"
    assert capsys.readouterr().out == f"the trained weights are in {last}/consolidated\n"
    assert [path.name for path in RunCheckpoints(run_dir, 0).all()] == ["checkpoint_000004", last.name]
    assert load_checkpoint(checkpoint, lora=last / "consolidated" / "lora.safetensors").lm is not None
    assert [line["step"] for line in metrics(run_dir)] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in metrics(run_dir, "eval")] == [3, 6]
    assert len(list((run_dir / "codes").iterdir())) == 3
    _check_sound(run_dir)
    _check_board(run_dir)


def test_of_a_conversation_too_short_to_be_answered_there_is_no_sample(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = configuration(checkpoint, tmp_path / "run", max_steps=1, sample_freq=1)
    finetune(config, train=Echoes(), evaluation=Echoes(valid=1))
    assert RunCheckpoints(config.run_dir, 0).newest() is not None
    assert not (config.run_dir / "samples").exists()


def _check_sound(run_dir: Path) -> None:
    sound, rate_hz = sf.read(run_dir / "samples" / "step_000006_0.wav")
    assert rate_hz == 24_000
    assert sound.shape[1] == 2 and 0.5 < len(sound) / rate_hz <= 1.0
    assert abs(sound).max(0).min() > 0
    assert "text" in json.loads((run_dir / "samples" / "step_000006_0.json").read_text())


def _check_board(run_dir: Path) -> None:
    board = EventAccumulator(str(run_dir / "tensorboard"))
    board.Reload()
    losses = [event.value for event in board.Scalars("train/loss")]
    assert losses == pytest.approx([line["loss"] for line in metrics(run_dir)], rel=1e-5)
    assert [event.step for event in board.Audio("sample/0")] == [6]
    assert [event.step for event in board.Scalars("eval/text")] == [3, 6]


def test_the_help_explains_the_command() -> None:
    from moshi_agent.cli.train import train

    shown = CliRunner().invoke(train, ["lm", "--help"]).output
    assert "moshi-finetune" in shown and "torchrun" in shown and "--config" in shown


def test_a_finished_run_is_left_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    config = configuration(checkpoint, tmp_path / "run", max_steps=3)
    path = finetune(config, train=Echoes())
    assert path is not None
    before = (path / "training.pt").stat().st_mtime_ns
    assert finetune(config, train=Echoes()) == path
    assert (path / "training.pt").stat().st_mtime_ns == before


def test_updates_are_added_to_the_weights_where_that_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    config = configuration(checkpoint, tmp_path / "run", max_steps=3, save_adapters=False)
    path = finetune(config, train=Echoes())
    assert path is not None
    config = load_checkpoint(path / "consolidated").config
    assert config is not None and config.lora is None


def test_no_checkpoint_is_written_where_none_is_wanted(checkpoint: Path, tmp_path: Path) -> None:
    config = configuration(checkpoint, tmp_path / "run", max_steps=2, do_ckpt=False)
    assert finetune(config, train=Echoes()) is None


def test_a_run_with_other_settings_is_refused_and_named(checkpoint: Path, tmp_path: Path) -> None:
    finetune(configuration(checkpoint, tmp_path / "run", max_steps=2), train=Echoes())
    other = configuration(checkpoint, tmp_path / "run", max_steps=2, batch_size=3, log_freq=2)
    with pytest.raises(ConfigError, match=r"other settings: batch_size=3 \(it was 4\); go on with those"):
        finetune(other, train=Echoes())


def test_metrics_of_steps_that_are_taken_again_are_written_once(checkpoint: Path, tmp_path: Path) -> None:
    """And a line that was being written is taken back."""

    class Ends(Echoes):
        def batch(self, step: int, size: int, **place: int) -> Any:
            if step >= 5:
                raise KeyboardInterrupt
            return super().batch(step, size, **place)

    config = configuration(checkpoint, tmp_path / "run", max_steps=8, ckpt_freq=3)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, train=Ends())
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ki')
    finetune(config, train=Echoes())
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 9))


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(checkpoint: Path, tmp_path: Path) -> None:
    """With room again, it goes on from there."""

    class Fills(Echoes):
        def batch(self, step: int, size: int, **place: int) -> Any:
            if step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
            return super().batch(step, size, **place)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = configuration(checkpoint, tmp_path / "run", max_steps=8, ckpt_freq=3)
    try:
        with pytest.raises(OutputError, match="cannot write"):
            finetune(config, train=Fills())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["checkpoint_000003"]
    assert finetune(config, train=Echoes()) == folder / "checkpoint_000008"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, ConfigError, "data.train_data is not given"),
        ({"data": DataConfig(train_data=Path("none.jsonl"))}, DataError, r"none\.jsonl"),
        (
            {"moshi_paths": ModelPaths(hf_repo_id="tests/golden/hf_moshi/checkpoint")},
            ConfigError,
            "convert it",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = configuration(checkpoint, tmp_path / "run", **changes)
    with pytest.raises(error, match=message):
        finetune(config)


def test_a_file_may_stand_for_the_checkpoints_own(checkpoint: Path, tmp_path: Path) -> None:
    """As `moshi_paths` says it in moshi-finetune."""
    weights = shutil.copy(checkpoint / "model.safetensors", tmp_path / "other.safetensors")
    paths = ModelPaths(
        hf_repo_id=str(checkpoint),
        moshi_path=str(weights),
        mimi_path=str(checkpoint / "mimi.safetensors"),
        tokenizer_path=str(checkpoint / "tokenizer_spm.model"),
        config_path=str(checkpoint / "config.json"),
    )
    config = configuration(
        checkpoint,
        tmp_path / "run",
        moshi_paths=paths,
        max_steps=2,
        lora=LoraSettings(),
        full_finetuning=True,
    )
    path = finetune(config, train=Echoes())
    assert path is not None
    lm = load_checkpoint(path / "consolidated").lm
    assert lm is not None and lm.text_linear.weight.dtype == torch.float32
