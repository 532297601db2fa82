"""The whole recipe, a few steps of each stage: a folder comes out that loads as a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.training.corpus import CorpusPlan
from moshi_agent.training.decoder import DecoderTraining
from moshi_agent.training.encoder import EncoderTraining
from moshi_agent.training.lm import LMTraining
from moshi_agent.training.lm_data import LMDataPlan
from moshi_agent.training.recipe import Places, Recipe, run_recipe, tiny_codec, tiny_lm

MISSING = [command for command in ("flite", "espeak-ng") if shutil.which(command) is None]
SHORT = Recipe(
    corpus=CorpusPlan(answer_voice_sentences=4, renderings_per_question=1, unknown=16),
    encoder=EncoderTraining(steps=4, batch=2, frames=4, continuous_steps=2, pool_steps=2),
    decoder=DecoderTraining(steps=2, batch=2, frames=4),
    calls=LMDataPlan(shards=1, calls_per_shard=2, frames=250),
    lm=LMTraining(steps=2, batch=2, frames=60, question_batch=2, long_every=2),
)


def test_the_built_in_model_fits_into_20_megabytes() -> None:
    """Two bytes for each weight, four for those of the codebooks."""
    from moshi_agent.models.lm import LMModel
    from moshi_agent.models.mimi import MimiModel

    count = sum(
        p.numel() for model in (MimiModel(tiny_codec()), LMModel(tiny_lm())) for p in model.parameters()
    )
    codebooks = 8 * 512 * (64 + 1)
    assert 2 * count + 4 * codebooks < 20_000_000


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_the_recipe_makes_a_model(tmp_path: Path) -> None:
    """Every stage runs once, a second run finds all of it done, and the export loads."""
    places = Places(tmp_path / "run", tmp_path / "model")
    run_recipe(SHORT, places)
    made = {path: path.stat().st_mtime_ns for path in (places.encoder, places.decoder, places.lm)}
    run_recipe(SHORT, places)
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.lm is not None and checkpoint.lm.config.card == checkpoint.mimi.cardinality


def test_a_stage_can_be_asked_for_alone(tmp_path: Path) -> None:
    """A stage without what it needs says so instead of making it."""
    places = Places(tmp_path / "run", tmp_path / "model")
    with pytest.raises(ConfigError, match="stages before"):
        run_recipe(SHORT, places, ("export",))
    assert not (tmp_path / "model").exists()
