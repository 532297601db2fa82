"""A whole training of a codec: it goes on where it was, is evaluated on the way, and leaves a codec."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from moshi_agent.audio.files import write_audio
from moshi_agent.checkpoint.codec import load_codec, new_codec, save_codec
from moshi_agent.checkpoint.write import make_folder, write_json
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.audio_data import AudioFile, BatchReader, Pieces, open_data
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.mimi.evaluation import Judge
from moshi_agent.training.mimi.teacher import Teacher, open_teacher
from moshi_agent.training.mimi.trainer import MimiTrainer
from moshi_agent.training.runs.distributed import process_count, process_group, rank, wait_for_all
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints, read_state
from moshi_agent.training.runs.run_metrics import RunMetrics
from moshi_agent.training.runs.settings import as_values, flat_values, refuse_changes
from moshi_agent.training.stereo.problems import Problems

# What may change in a run that is gone on with: no step depends on it, or all that follow are meant to.
_FREE = ("folder", "steps", "checkpoint_every", "keep_checkpoints", "evaluation", "data.workers")
_EVALUATION_SEED = 20

_log = logging.getLogger("moshi_agent.training")


def train_mimi(config: MimiTraining, device: str = "cpu", *, until: int | None = None) -> Path | None:
    """Trains a codec to its last step, from the newest checkpoint in the run's folder where there is one.

    Started by `torchrun`, the processes share every step.

    Args:
        device: as PyTorch names it; `cuda` is, with several processes, the one of each.
        until: stops after this step instead; a later call goes on.

    Returns:
        The folder of the last checkpoint. Its `consolidated` has the averaged codec, see `save_codec`.

    Raises:
        ConfigError, CheckpointError, DataError, OutputError: see `moshi_agent.errors`.
    """
    with process_group(device) as own:
        run = _Run(config, own)
        try:
            return run.go(config.steps if until is None else until)
        finally:
            run.close()


class _Run:
    """One process's part: a trainer and what watches it."""

    def __init__(self, config: MimiTraining, device: torch.device) -> None:
        self.config = config
        self.checkpoints = RunCheckpoints(config.folder, config.keep_checkpoints)
        self.settings = _lasting_settings(config)
        newest = self.checkpoints.newest()
        state = None if newest is None else read_state(newest)
        if state is not None:
            refuse_changes(state["settings"], self.settings, config.folder)
        self.problems = Problems()
        self._prepare(device)
        if state is not None:
            self.trainer.restore(state)
        self.metrics = RunMetrics(config.folder, self.trainer.step) if rank() == 0 else None

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
        trainer = self.trainer
        if self.metrics is not None:
            make_folder(self.config.folder)
            write_json(self.config.folder / "settings.json", as_values(self.config))
        if trainer.step == 0:
            self._evaluate()
        hidden = True if rank() else None  # None shows it on a terminal only
        with tqdm(total=last, initial=trainer.step, desc="train mimi", unit="step", disable=hidden) as bar:
            while trainer.step < last:
                metrics = trainer.train_step()
                bar.set_postfix({name: f"{value:.3f}" for name, value in metrics.items()}, refresh=False)
                bar.update()
                self._after_step(metrics, last)
        if self.problems and rank() == 0:
            _log.warning("%s", self.problems.report())
        return self.checkpoints.newest()

    def close(self) -> None:
        """Ends what runs beside the training, and writes what waits."""
        self.reader.close()
        if self.metrics is not None:
            self.metrics.close()

    def _after_step(self, metrics: dict[str, float], last: int) -> None:
        step = self.trainer.step
        self._note("train", metrics)
        if step % self.config.evaluation.every == 0 or step == last:
            self._evaluate()
        if step % self.config.checkpoint_every == 0 or step == last:
            if rank() == 0:
                content: dict[str, Any] = {**self.trainer.content(), "settings": self.settings}
                self.checkpoints.save(step, content, lambda folder: save_codec(folder, self.trainer.average))
            wait_for_all()

    def _evaluate(self) -> None:
        """Metrics and samples of the averaged codec."""
        if self.metrics is None:
            return
        step, average = self.trainer.step, self.trainer.average
        evaluated = self.judge.evaluate(average)
        self._note("eval", evaluated.metrics)
        folder = self.config.folder / "samples"
        make_folder(folder)
        for index in range(min(self.config.evaluation.samples, len(evaluated.audio))):
            original, decoded = self.judge.batch.audio[index].numpy(), evaluated.audio[index].numpy()
            write_audio(folder / f"original_{index}.wav", original, average.sample_rate)
            write_audio(folder / f"step_{step:06d}_{index}.wav", decoded, average.sample_rate)
            self.metrics.add_sample(step, str(index), decoded, average.sample_rate, "decoded")

    def _note(self, group: str, metrics: dict[str, float]) -> None:
        """Metrics that are numbers: JSON has no other."""
        if self.metrics is not None:
            known = {name: value for name, value in metrics.items() if math.isfinite(value)}
            self.metrics.add(self.trainer.step, group, known)


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
