"""Fine-tunes from a configuration to checkpoints, metrics and sound in one folder."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from moshi_agent.checkpoint.write import write_json
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.training.finetune import sharding
from moshi_agent.training.finetune.base import compute_dtype, load_base
from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.finetune.crops import CropSource
from moshi_agent.training.finetune.export import write_lora, write_model
from moshi_agent.training.finetune.finetuner import FineTuner
from moshi_agent.training.finetune.losses import Objective, ObjectiveConfig
from moshi_agent.training.finetune.resume import lasting_settings
from moshi_agent.training.finetune.samples import sample_reply
from moshi_agent.training.finetune.turn_taking import TurnTaking
from moshi_agent.training.runs.distributed import process_count, process_group, rank, wait_for_all
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints
from moshi_agent.training.runs.run_metrics import RunMetrics
from moshi_agent.training.runs.settings import refuse_changes
from moshi_agent.training.runs.training_run import Periodic, TrainingRun
from moshi_agent.training.stereo.dataset import Batch, StereoConfig, StereoDataset

_log = logging.getLogger("moshi_agent.training")


def finetune(
    config: FineTuneConfig,
    *,
    device: str = "cpu",
    train: CropSource | None = None,
    evaluation: CropSource | None = None,
) -> Path | None:
    """Fine-tunes to the last step, from the newest checkpoint in `run_dir` where there is one.

    Started by `torchrun`, its processes share the model.

    Args:
        device: as PyTorch names it.
        train, evaluation: conversations to take instead of those that `config.data` names.

    Returns:
        The folder of the last checkpoint; None where none is written.

    Raises:
        ConfigError: settings that do not fit the checkpoint, the data, or a run that is gone on with.
        CheckpointError: a checkpoint that is missing or damaged.
        DataError: no conversation that can be used.
        OutputError: something cannot be written; the checkpoint before it stays.
    """
    with process_group(device) as own:
        training = _Training(config, own, train, evaluation)
        try:
            return training.go()
        finally:
            training.close()


class _Training:
    """One process's part."""

    def __init__(
        self,
        config: FineTuneConfig,
        device: torch.device,
        train: CropSource | None,
        evaluation: CropSource | None,
    ) -> None:
        self.config = config
        checkpoints = RunCheckpoints(config.run_dir, config.num_ckpt_keep)
        state = _shared_state(checkpoints)
        self.dtype = _dtype(config, device, state)
        settings = lasting_settings(config, self.dtype, process_count())
        if state is not None:
            refuse_changes(state["settings"], settings, config.run_dir)
        self.base = load_base(config, self.dtype)
        self.base.checkpoint.mimi.to(device)
        train = train or self._open(config.data.train_data, "data.train_data")
        self.evaluation = self._evaluation(evaluation)
        self.turns = self._turn_taking()
        objective = Objective(self.base.lm, _objective_config(config, self.dtype))
        sharding.shard(objective, device, self.dtype)
        self.tuner = FineTuner(objective, config, train)
        self.run = TrainingRun(
            self.tuner, checkpoints, name="train lm", state=state, lasting_settings=settings
        )

    def go(self) -> Path | None:
        """See `finetune`."""
        config = self.config
        self.run.write_settings(config)
        wanted = [
            (config.do_eval, Periodic(config.eval_freq, self._evaluate)),
            (config.sample_freq > 0, Periodic(config.sample_freq, self._sample)),
            (config.turns_freq > 0, Periodic(config.turns_freq, self._measure_turns)),
            (config.do_ckpt, Periodic(config.ckpt_freq, self._save)),
        ]
        due = [periodic for is_wanted, periodic in wanted if is_wanted]
        return self.run.train(config.max_steps, due, log_every=config.log_freq)

    def close(self) -> None:
        """Writes what waits."""
        self.run.close()

    def _evaluate(self) -> None:
        self.run.add_metrics("eval", self.tuner.evaluate(self.evaluation))

    def _sample(self) -> None:
        """Has the first crops of the evaluation set answered by the model as it is now."""
        lm = self.base.lm.eval()
        with sharding.whole_weights(self.tuner.objective):
            if self.run.metrics is not None:
                for number in range(min(self.config.num_samples, _rows(self.evaluation))):
                    self._write_sample(lm, number, self.run.metrics)

    def _measure_turns(self) -> None:
        """Has the first process answer the samples with the model as it is now."""
        lm = self.base.lm.eval()
        with sharding.whole_weights(self.tuner.objective):
            if self.turns is not None:
                measured = self.turns.measure(
                    self.base.checkpoint, lm, self.tuner.step, dtype=self.dtype, seed=self.config.seed
                )
                self.run.add_metrics("turns", measured)

    def _write_sample(self, lm: LMModel, number: int, metrics: RunMetrics) -> None:
        config, step = self.config, self.tuner.step
        batch, row = _row(self.evaluation, number)
        least = 2 + lm.config.max_delay  # before, nothing comes out
        if int(batch.valid_frames[row]) < least:
            return
        frames = max(least, int(config.sample_sec * self.base.checkpoint.mimi.frame_rate))
        reply = sample_reply(
            self.base.checkpoint, lm, batch, row, frames, dtype=self.dtype, seed=config.seed + number
        )
        metrics.add_sample(step, str(number), reply.sound, reply.sample_rate_hz, reply.text)
        write_json(metrics.samples / f"step_{step:06d}_{number}.json", {"text": reply.text})

    def _save(self) -> None:
        if self.config.lora.enable and self.config.save_adapters:
            self.run.save(lambda folder, content: self._export(folder, content["weights"]))
        else:
            weights = sharding.all_weights(self.tuner.objective)
            self.run.save(lambda folder, _: self._export(folder, weights))

    def _export(self, folder: Path, trained: dict[str, torch.Tensor]) -> None:
        weights = _unprefixed(trained)
        lora, files = self.config.lora, self.base.files
        if lora.enable and self.config.save_adapters:
            write_lora(folder, files, weights, lora, self.dtype)
        else:
            write_model(folder, files, weights, lora.scaling, self.dtype)

    def _open(self, manifest: Path | None, key: str) -> StereoDataset:
        """The conversations of a manifest, encoded by all processes together."""
        if manifest is None:
            raise ConfigError(f"{key} is not given: a .jsonl file that lists conversations")
        data, lm_config, checkpoint = self.config.data, self.base.lm.config, self.base.checkpoint
        if checkpoint.tokenizer is None:
            raise ConfigError(f"{checkpoint.name} has no tokenizer")
        stereo = StereoConfig(
            duration_s=self.config.duration_sec,
            seed=self.config.seed,
            shift_crops=data.shift_crops,
            crowded=data.crowded,
            encoding=data.encoding,
            cache=data.cache or self.config.run_dir / "codes",
            text_padding=lm_config.text_padding_id,
            text_end_of_padding=lm_config.text_end_padding_id,
            text_initial=lm_config.text_card if self.config.references else None,
        )
        dataset = StereoDataset(manifest, checkpoint.tokenizer, checkpoint.mimi, stereo)
        dataset.prepare(rank=rank(), ranks=process_count())
        wait_for_all()
        if dataset.problems and rank() == 0:
            _log.warning("%s", dataset.problems.report())
        return dataset

    def _turn_taking(self) -> TurnTaking | None:
        """The samples, on the first process, where they are asked for."""
        config = self.config
        return TurnTaking(config.run_dir, config.turns_data) if config.turns_freq and rank() == 0 else None

    def _evaluation(self, given: CropSource | None) -> list[Batch]:
        """The evaluation set, the same in all processes; empty where nothing asks for it."""
        config = self.config
        if not (config.do_eval or config.sample_freq):
            return []
        source = given or self._open(config.data.eval_data, "data.eval_data")
        return list(itertools.islice(source.in_order(config.batch_size), config.eval_batches))


def _shared_state(checkpoints: RunCheckpoints) -> dict[str, Any] | None:
    """What the run goes on from. The tensors are the first process's, which alone need read them."""
    state = checkpoints.newest_state() if rank() == 0 else None
    if process_count() == 1:
        return state
    empty = {"weights": {}, "optimizer": {}}
    shared = [None if state is None else {**state, **empty}]
    distributed.broadcast_object_list(shared)
    return shared[0] if state is None else state


def _dtype(config: FineTuneConfig, device: torch.device, state: dict[str, Any] | None) -> torch.dtype:
    # What `auto` has chosen stays: it is a matter of time, which is never quite the same.
    if state is not None and config.param_dtype == "auto":
        return getattr(torch, state["settings"]["param_dtype"])
    shared = [compute_dtype(config, device)]
    if process_count() > 1:
        distributed.broadcast_object_list(shared)
    return shared[0]


def _objective_config(config: FineTuneConfig, dtype: torch.dtype) -> ObjectiveConfig:
    return ObjectiveConfig(
        first_codebook_weight=config.first_codebook_weight_multiplier,
        text_padding_weight=config.text_padding_weight,
        noise=config.noise,
        depth_share=config.depth_share,
        dtype=dtype,
    )


def _unprefixed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names in the model, which is a part of what is trained."""
    return {name.removeprefix("lm."): tensor for name, tensor in weights.items()}


def _rows(batches: list[Batch]) -> int:
    return sum(len(batch.codes) for batch in batches)


def _row(batches: list[Batch], number: int) -> tuple[Batch, int]:
    """The crop of this number."""
    for batch in batches:
        if number < len(batch.codes):
            return batch, number
        number -= len(batch.codes)
    raise IndexError(number)
