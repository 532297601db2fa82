"""Steps of a codec's training: what they change, what they leave, and that they lead somewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent import CheckpointError, ConfigError
from moshi_agent.checkpoint.codec import load_codec, new_codec
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.audio_data import BatchReader, Pieces, find_audio
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.mimi.teacher import open_teacher
from moshi_agent.training.mimi.trainer import MimiTrainer
from moshi_agent.training.stereo.problems import Problems
from tests.training.mimi.codec_material import settings, trained_codec, write_features, write_recordings


class Workshop:
    """Makes trainers on the same recordings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = find_audio(write_recordings(folder / "data"), Problems())
        write_features(folder / "data")
        self.codec = trained_codec(folder / "codec")
        self.readers: list[BatchReader] = []

    def config(self, **changes: Any) -> MimiTraining:
        return settings(self.folder, **changes)

    def trainer(self, **changes: Any) -> MimiTrainer:
        """Of a new codec, unless `from` names another."""
        config = self.config(**changes)
        torch.manual_seed(config.seed)
        model = new_codec(config.codec) if config.codec is not None else load_codec(str(config.start))
        pieces = Pieces(self.files, config.frames * model.frame_size, model.config, Problems())
        self.readers.append(BatchReader(pieces, config.batch, (config.seed, 0), workers=1))
        teacher = None
        if config.losses.distillation:
            teacher = open_teacher(config.teacher, self.files, model.sample_rate, model.frame_rate)
        return MimiTrainer(config, model, self.readers[-1], teacher)

    def fine_tuner(self, **changes: Any) -> MimiTrainer:
        return self.trainer(**{"from": str(self.codec), "codec": None} | changes)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path)
    yield made
    for reader in made.readers:
        reader.close()


def weights(model: MimiModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_step_moves_codec_codebooks_discriminator_and_average(workshop: Workshop) -> None:
    """Of a new codec; the first step also makes its codebooks."""
    trainer = workshop.trainer(losses={"distillation": 1.0}, teacher={"suffix": ".npy"})
    before, judge = weights(trainer.model), trainer.discriminator.state_dict()
    judge = {name: tensor.clone() for name, tensor in judge.items()}
    metrics = trainer.train_step()
    after = weights(trainer.model)
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {
        *("encoder", "encoder_transformer", "downsample", "quantizer"),
        *("upsample", "decoder_transformer", "decoder"),
    }
    assert float(trainer.model.quantizer.rvq_rest.codebook(2).initialized) == 1
    assert any(
        not torch.equal(tensor, judge[name]) for name, tensor in trainer.discriminator.state_dict().items()
    )
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(trainer.average).items())
    named = {"adversarial", "feature", "spectral", "waveform", "commitment", "distillation", "discriminator"}
    assert named <= set(metrics) and all(math.isfinite(value) for value in metrics.values())


def test_a_training_goes_on_to_the_very_same_weights(workshop: Workshop) -> None:
    """With accumulation, a teacher, dropout of codebooks, rows that are not quantized, and dead codes."""
    changes: dict[str, Any] = {
        "accumulate": 2,
        "losses": {"distillation": 0.5},
        "teacher": {"suffix": ".npy"},
        "codebooks": {"dead_every": 1},
    }
    whole = workshop.trainer(**changes)
    while whole.step < 4:
        whole.train_step()
    first = workshop.trainer(**changes)
    first.train_step()
    first.train_step()
    second = workshop.trainer(**changes)
    second.restore(first.content())
    while second.step < 4:
        second.train_step()
    for name in ("model", "average", "discriminator", "balancer", "distillation"):
        ours, theirs = getattr(second, name).state_dict(), getattr(whole, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_with_the_decoder_alone_the_codes_stay(workshop: Workshop) -> None:
    """Whatever makes codes is untouched; what turns them into sound is not."""
    trainer = workshop.fine_tuner(parts="decoder")
    before = weights(trainer.model)
    for _ in range(2):
        trainer.train_step()
    moved = {name for name, tensor in weights(trainer.model).items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in moved} == {
        "upsample",
        "decoder_transformer",
        "decoder",
        "quantizer",
    }
    assert {name for name in moved if name.startswith("quantizer")} == {
        "quantizer.rvq_first.output_proj.weight",
        "quantizer.rvq_rest.output_proj.weight",
    }


def test_the_discriminator_may_learn_alone_at_first(workshop: Workshop) -> None:
    trainer = workshop.fine_tuner(discriminator_head_start=1)
    before = weights(trainer.model)
    assert set(trainer.train_step()) == {"discriminator", "discriminator_norm"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer.model).items())
    assert "spectral" in trainer.train_step()
    assert not all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer.model).items())


def test_losses_without_a_weight_are_not_computed(workshop: Workshop) -> None:
    """Without adversarial losses no discriminator learns; with them alone nothing is reconstructed."""
    spectral = workshop.fine_tuner(losses={"adversarial": 0, "feature": 0, "waveform": 0, "commitment": 0})
    assert set(spectral.train_step()) == {"spectral", "norm"}
    published = workshop.fine_tuner(losses={"spectral": 0, "waveform": 0})
    assert set(published.train_step()) == {
        *("discriminator", "adversarial", "feature", "commitment"),
        *("norm", "discriminator_norm"),
    }


def test_fewer_codebooks_may_be_in_use(workshop: Workshop) -> None:
    """Those that are not stay as they are."""
    trainer = workshop.fine_tuner(num_codebooks=2)
    before = weights(trainer.model)
    trainer.train_step()
    after = weights(trainer.model)
    name = "quantizer.rvq_rest.codebooks.{}.embedding_sum"
    assert not torch.equal(after[name.format(0)], before[name.format(0)])
    assert torch.equal(after[name.format(1)], before[name.format(1)])
    with pytest.raises(ConfigError, match="num_codebooks=5; accepted for this codec: 2 to 4"):
        workshop.fine_tuner(num_codebooks=5)


def test_mixed_precision_trains_as_well(workshop: Workshop) -> None:
    metrics = workshop.fine_tuner(precision="bfloat16").train_step()
    exact = workshop.fine_tuner().train_step()
    assert metrics["spectral"] == pytest.approx(exact["spectral"], rel=0.05)


def test_a_gradient_that_is_no_number_changes_nothing(workshop: Workshop) -> None:
    trainer = workshop.fine_tuner(losses={"adversarial": 0, "feature": 0}, codebooks={"unquantized": 0.0})
    with torch.no_grad():
        next(trainer.model.decoder.parameters()).fill_(torch.nan)
    before = weights(trainer.average)
    assert math.isnan(trainer.train_step()["norm"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer.average).items())


def test_a_new_codec_without_codebooks_has_no_decoder_to_train(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match="needs a trained codec"):
        workshop.trainer(parts="decoder")


def test_a_checkpoint_of_another_training_is_refused(workshop: Workshop) -> None:
    content = workshop.fine_tuner(discriminator={"filters": 2, "windows": [512]}).content()
    with pytest.raises(CheckpointError, match="another training"):
        workshop.fine_tuner().restore(content)


def test_it_learns(workshop: Workshop) -> None:
    """On tones: the spectra come nearer, the semantic codes come to tell what the teacher says, and the
    discriminator's loss stays between knowing all and being wrong everywhere."""
    trainer = workshop.trainer(
        steps=40,
        batch=3,
        learning_rate=3e-3,
        losses={"distillation": 1.0},
        teacher={"suffix": ".npy"},
        codebooks={"unquantized": 0.25},
        discriminator={"filters": 2, "windows": [256]},
    )
    metrics = [trainer.train_step() for _ in range(40)]

    def mean(name: str, part: slice) -> float:
        values = [row[name] for row in metrics[part]]
        return sum(values) / len(values)

    first, last = slice(0, 5), slice(-5, None)
    assert mean("spectral", last) < 0.6 * mean("spectral", first)
    assert mean("distillation", last) < 0.5 * mean("distillation", first)
    assert all(0 <= row["discriminator"] < 3 for row in metrics)
