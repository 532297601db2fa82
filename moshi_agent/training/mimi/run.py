"""Trains a codec from settings to files, evaluates it on the way, and goes on where it was stopped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from moshi_agent.audio.files import write_audio
from moshi_agent.checkpoint.codec import load_codec, new_codec, save_codec
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.audio_data import AudioFile, BatchReader, Pieces, open_data
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.mimi.evaluation import Judge
from moshi_agent.training.mimi.teacher import Teacher, open_teacher
from moshi_agent.training.mimi.trainer import MimiTrainer
from moshi_agent.training.runs.distributed import process_count, process_group, rank
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints
from moshi_agent.training.runs.settings import flat_values, refuse_changes
from moshi_agent.training.runs.training_run import Periodic, TrainingRun
from moshi_agent.training.stereo.problems import Problems

# What may change in a run that is gone on with: no step depends on it, or all that follow are meant to.
_FREE = ("folder", "steps", "checkpoint_every", "keep_checkpoints", "evaluation", "data.workers")
_EVALUATION_SEED = 20

_log = logging.getLogger("moshi_agent.training")


def train_mimi(config: MimiTraining, device: str = "cpu", *, until: int | None = None) -> Path | None:
    """Trains a codec to its last step, from the newest checkpoint in the run's folder where there is one.

    Processes that `torchrun` started share every step.

    Args:
        device: as PyTorch names it; `cuda` is, with several processes, the one of each.
        until: stops after this step instead; a later call goes on.

    Returns:
        The folder of the last checkpoint. Its `consolidated` has the averaged codec, see `save_codec`.

    Raises:
        ConfigError, CheckpointError, DataError, OutputError: see `moshi_agent.errors`.
    """
    with process_group(device) as own:
        training = _Training(config, own)
        try:
            return training.go(config.steps if until is None else until)
        finally:
            training.close()


class _Training:
    """One process's part: a trainer and what watches it."""

    def __init__(self, config: MimiTraining, device: torch.device) -> None:
        self.config = config
        checkpoints = RunCheckpoints(config.folder, config.keep_checkpoints)
        settings, state = _lasting_settings(config), checkpoints.newest_state()
        if state is not None:
            refuse_changes(state["settings"], settings, config.folder)
        self.problems = Problems()
        self._prepare(device)
        self.run = TrainingRun(
            self.trainer, checkpoints, name="train mimi", state=state, lasting_settings=settings
        )

    def _prepare(self, device: torch.device) -> None:
        """Opens the data, then loads the codec: what is wrong with the data shows early."""
        config = self.config
        torch.manual_seed(config.seed)
        train, valid = open_data(config.data, self.problems)
        model = _load(config).to(device)
        teacher = _teacher(config, model, [*train, *valid])
        samples = config.frames * model.frame_size
        pieces = Pieces(train, samples, model.config, self.problems)
        self.reader = BatchReader(pieces, config.batch, (config.seed, rank()), config.data.workers)
        self.trainer = MimiTrainer(config, model, self.reader, teacher)
        heard = Pieces(valid, samples, model.config, self.problems)
        batch = heard.batch(config.evaluation.pieces, _EVALUATION_SEED)
        targets = None if teacher is None else teacher.targets(batch, config.frames)
        self.judge = Judge(batch, config.spectral, targets, self.trainer.distillation)
        _log.info(
            "%d recordings of %.0f s to train with, %d of %.0f s to evaluate with",
            *(len(train), pieces.total_s, len(valid), heard.total_s),
        )

    def go(self, last: int) -> Path | None:
        """See `train_mimi`."""
        config = self.config
        self.run.write_settings(config)
        if self.trainer.step == 0:
            self._evaluate()
        due = [
            Periodic(config.evaluation.every, self._evaluate),
            Periodic(config.checkpoint_every, self._save),
        ]
        newest = self.run.train(last, due)
        if self.problems and rank() == 0:
            _log.warning("%s", self.problems.report())
        return newest

    def close(self) -> None:
        """Ends what runs beside the training, and writes what waits."""
        self.reader.close()
        self.run.close()

    def _save(self) -> None:
        self.run.save(lambda folder, _: save_codec(folder, self.trainer.average))

    def _evaluate(self) -> None:
        """Writes metrics and samples of the averaged codec."""
        metrics = self.run.metrics
        if metrics is None:
            return
        average = self.trainer.average
        evaluated = self.judge.evaluate(average)
        self.run.add_metrics("eval", evaluated.metrics)
        for index in range(min(self.config.evaluation.samples, len(evaluated.audio))):
            original, decoded = self.judge.batch.audio[index].numpy(), evaluated.audio[index].numpy()
            metrics.add_sample(self.trainer.step, str(index), decoded, average.sample_rate, "decoded")
            write_audio(metrics.samples / f"original_{index}.wav", original, average.sample_rate)


def _lasting_settings(config: MimiTraining) -> dict[str, Any]:
    """The settings that every step depends on."""
    settings = {key: value for key, value in flat_values(config).items() if not key.startswith(_FREE)}
    return settings | {"processes": process_count()}


def _load(config: MimiTraining) -> MimiModel:
    if config.codec is not None:
        return new_codec(config.codec)
    assert config.start is not None
    return load_codec(config.start)


def _teacher(config: MimiTraining, model: MimiModel, files: list[AudioFile]) -> Teacher | None:
    if not config.losses.distillation:
        return None
    return open_teacher(config.teacher, files, model.sample_rate, model.frame_rate)
