"""The steps of a fine-tuning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from moshi_agent.training.finetune.base import load_base
from moshi_agent.training.finetune.config import LoraSettings, OptimConfig
from moshi_agent.training.finetune.finetuner import FineTuner
from moshi_agent.training.finetune.losses import Objective, ObjectiveConfig
from tests.training.finetune.finetune_material import Echoes, configuration


def _tuner(checkpoint: Path, **changes: Any) -> FineTuner:
    config = configuration(checkpoint, Path("unused"), **changes)
    objective = Objective(load_base(config, torch.float32).lm, ObjectiveConfig())
    return FineTuner(objective, config, Echoes())


def _weights(tuner: FineTuner) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in tuner.objective.lm.named_parameters()}


@pytest.mark.parametrize("full", [False, True], ids=["low rank", "full"])
def test_the_model_learns(checkpoint: Path, full: bool) -> None:
    """What is said follows from what is heard, and is learnt; so it is on conversations not trained on."""
    lora = LoraSettings(enable=not full, rank=4)
    tuner = _tuner(checkpoint, full_finetuning=full, lora=lora, max_steps=40, optim=OptimConfig(lr=2e-2))
    evaluation = list(Echoes().in_order(4))
    before = tuner.evaluate(evaluation)
    first, *_ = [tuner.train_step() for _ in range(40)]
    after = tuner.evaluate(evaluation)
    assert first["loss"] == first["text"] + first["audio"]
    assert all(after[name] < 0.6 * before[name] for name in ("text", "audio"))


def test_only_what_is_to_be_trained_changes(checkpoint: Path) -> None:
    tuner = _tuner(checkpoint)
    before = _weights(tuner)
    for _ in range(2):
        tuner.train_step()
    changed = {name for name, weight in _weights(tuner).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".lora_" in name}


def test_a_gradient_that_is_no_number_changes_nothing(checkpoint: Path) -> None:
    tuner = _tuner(checkpoint)
    tuner.train_step()
    before = _weights(tuner)
    weight = next(one for one in tuner.objective.parameters() if one.requires_grad)
    broken = weight.register_hook(lambda gradient: gradient * torch.nan)
    assert not math.isfinite(tuner.train_step()["norm"])
    assert all(torch.equal(weight, before[name]) for name, weight in _weights(tuner).items())
    broken.remove()
    assert math.isfinite(tuner.train_step()["norm"])


def test_evaluation_changes_nothing(checkpoint: Path) -> None:
    tuner, evaluation = _tuner(checkpoint), list(Echoes().in_order(4))
    before = _weights(tuner)
    assert tuner.evaluate(evaluation) == tuner.evaluate(evaluation)
    assert all(torch.equal(weight, before[name]) for name, weight in _weights(tuner).items())


def test_gradients_of_several_batches_are_those_of_one(checkpoint: Path) -> None:
    """Two halves of a batch, all tokens known, are the whole of it."""

    class Halves(Echoes):
        def batch(self, step: int, size: int, **place: int) -> Any:
            parts = [super(Halves, self).batch(number, 2) for number in range(2)]
            if size == 2:
                return parts[step % 2]
            codes = torch.cat([part.codes for part in parts])
            return type(parts[0])(codes, torch.full((4,), self.frames), [None] * 4)

    tuners = [_tuner(checkpoint, batch_size=4), _tuner(checkpoint, batch_size=2, num_microbatches=2)]
    for tuner in tuners:
        tuner.crops = Halves()
    metrics = [[tuner.train_step() for _ in range(3)] for tuner in tuners]
    for whole, halves in zip(*metrics, strict=True):
        assert whole == pytest.approx(halves, rel=1e-4)


def test_recomputed_layers_give_the_same_steps(checkpoint: Path) -> None:
    tuners = [_tuner(checkpoint, gradient_checkpointing=on) for on in (False, True)]
    assert [transformer.checkpointing for transformer in _transformers(tuners[1])] == [True, True]
    plain, saving = ([tuner.train_step() for _ in range(3)] for tuner in tuners)
    assert plain == saving


def _transformers(tuner: FineTuner) -> list[Any]:
    return [tuner.objective.lm.transformer, tuner.objective.lm.depformer]


def test_the_learning_rate_goes_through_one_cycle(checkpoint: Path) -> None:
    tuner = _tuner(checkpoint, max_steps=10, optim=OptimConfig(lr=1e-2, pct_start=0.3))
    rates = [tuner.train_step()["lr"] for _ in range(10)]
    assert max(rates) == rates[2] == pytest.approx(1e-2)
    assert rates[:3] == sorted(rates[:3])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 1e-6


def test_a_gradient_is_clipped(checkpoint: Path) -> None:
    """The norm is told as it was, and a step on a much shorter gradient of AdamW's is another one."""
    free, clipped = _tuner(checkpoint, max_norm=1e9), _tuner(checkpoint, max_norm=1e-12)
    assert free.train_step() == clipped.train_step()
    assert free.train_step()["loss"] != clipped.train_step()["loss"]


def test_content_and_restore_go_on_to_the_same_steps(checkpoint: Path) -> None:
    """Through a file, as a run does."""
    whole, first, second = (_tuner(checkpoint) for _ in range(3))
    expected = [whole.train_step() for _ in range(12)]
    begun = [first.train_step() for _ in range(5)]
    second.restore(first.content())
    assert begun + [second.train_step() for _ in range(7)] == expected
    assert all(torch.equal(weight, _weights(whole)[name]) for name, weight in _weights(second).items())
