"""Any checkpoint is taught to speak about references: the loss reads them, and what is written takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moshi_agent.checkpoint import load_checkpoint, save_kyutai
from moshi_agent.errors import ConfigError
from moshi_agent.training.finetune.base import load_base
from moshi_agent.training.finetune.config import DataConfig, LoraSettings, OptimConfig
from moshi_agent.training.finetune.losses import Objective, ObjectiveConfig
from moshi_agent.training.finetune.run import finetune
from moshi_agent.training.stereo.dataset import Batch
from tests.reference_models import reference_lm
from tests.small_models import small_mimi
from tests.training.finetune.finetune_material import (
    TOKENIZER,
    configuration,
    conversations,
    metrics,
    small_checkpoint,
)

INITIAL, PADDING = 400, 3


class ToldWords:
    """Only the reference says what the text will be, in the frame of each of its tokens; nothing is heard."""

    def batch(self, step: int, size: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        rng = np.random.default_rng([7, step * ranks + rank])
        words = rng.integers(10, 18, (size, 20))
        references = np.full((size, 20), PADDING)
        references[:, 2], references[:, 3:16] = INITIAL, words[:, :13]
        codes = np.full((size, 5, 20), 1)
        codes[:, 0] = PADDING
        codes[:, 0, 3:16] = words[:, :13]
        given = torch.from_numpy(references)
        return Batch(torch.from_numpy(codes), torch.full((size,), 20), [None] * size, given)

    def in_order(self, size: int, *, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        return (self.batch(1000 + number, size) for number in range(2))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("base"))


def test_a_table_that_is_given_changes_nothing_but_where_references_are(
    checkpoint: Path, tmp_path: Path
) -> None:
    """The model begins as the one it is made of, and only with references does its loss differ."""
    config = configuration(checkpoint, tmp_path, references=True)
    lm = load_base(config, torch.float32).lm
    assert (
        lm.takes_references == "tokens" and lm.oracle_emb is not None and lm.oracle_emb.weight.requires_grad
    )
    trained = {name for name, weight in lm.named_parameters() if weight.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {"oracle_emb.weight"}
    before = load_base(configuration(checkpoint, tmp_path), torch.float32).lm
    batch = ToldWords().batch(0, 2)
    silent = Batch(batch.codes, batch.valid_frames, batch.text_conditions)
    losses = [Objective(one, ObjectiveConfig())(silent)["text"] for one in (lm, before)]
    torch.testing.assert_close(*losses)
    told = Objective(lm, ObjectiveConfig())(batch)["text"]
    assert abs(told - losses[0]) > 1e-3
    told.backward()
    gradient = lm.oracle_emb.weight.grad
    assert gradient is not None and gradient[INITIAL].any() and not gradient[PADDING].any()


@pytest.mark.parametrize("whole", [False, True], ids=["lora", "whole"])
def test_a_toy_learns_to_say_what_it_is_told(checkpoint: Path, tmp_path: Path, whole: bool) -> None:
    """And what is written takes references when it is loaded again, its updates by `lora=` alone."""
    changes: dict[str, Any] = {"full_finetuning": True, "lora": LoraSettings()} if whole else {}
    steps = OptimConfig(lr=2e-2, weight_decay=0.0)
    config = configuration(checkpoint, tmp_path, references=True, max_steps=40, optim=steps, **changes)
    folder = finetune(config, train=ToldWords())
    losses = [line["text"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.6 * losses[0]
    written = next(tmp_path.rglob("consolidated"))
    assert folder is not None and (written / "references.safetensors").is_file()
    weights = load_file(written / ("model.safetensors" if whole else "lora.safetensors"))
    assert "oracle_emb.weight" not in weights
    loaded = (
        load_checkpoint(written) if whole else load_checkpoint(checkpoint, lora=written / "lora.safetensors")
    )
    assert loaded.lm is not None and loaded.lm.takes_references == "tokens"
    batch = ToldWords().batch(2000, 8)
    objective = Objective(loaded.lm, ObjectiveConfig())
    untold = Batch(batch.codes, batch.valid_frames, batch.text_conditions)
    with torch.no_grad():
        assert objective(batch)["text"] < 0.6 * objective(untold)["text"]


def test_a_run_reads_them_from_the_files_beside_the_conversations(checkpoint: Path, tmp_path: Path) -> None:
    manifest = conversations(tmp_path / "data")
    audio = sorted((tmp_path / "data").glob("*.wav"))
    entry = {"timestamp_ms": 400, "prediction": "hello there"}
    audio[0].with_suffix(".references.json").write_text(json.dumps([entry]))
    config = configuration(
        checkpoint,
        tmp_path / "run",
        references=True,
        max_steps=2,
        duration_sec=2.0,
        sample_freq=1,
        sample_sec=1.0,
        data=DataConfig(train_data=manifest, eval_data=manifest),
    )
    finetune(config)
    assert metrics(tmp_path / "run")[-1]["step"] == 2
    assert list((tmp_path / "run").rglob("*.wav")), "samples are told them as well"


def test_rows_of_an_encoder_are_not_trained(tmp_path: Path) -> None:
    save_kyutai(tmp_path / "rows", small_mimi(), reference_lm("rows"), TOKENIZER, dtype=torch.float32)
    config = configuration(tmp_path / "rows", tmp_path, references=True)
    with pytest.raises(ConfigError, match="rows of an encoder"):
        load_base(config, torch.float32)
