"""The whole recipe, a few steps of each stage: a folder comes out that loads as a model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.tiny.corpus import CallSpeechPlan, CorpusPlan
from moshi_agent.training.tiny.decoder import DecoderTraining
from moshi_agent.training.tiny.encoder import EncoderTraining
from moshi_agent.training.tiny.freeze import keep, load_codec, load_weights, save_weights
from moshi_agent.training.tiny.lm import LMTraining
from moshi_agent.training.tiny.lm_data import LMDataPlan
from moshi_agent.training.tiny.recipe import Places, Recipe, run_recipe, start_from, tiny_codec, tiny_lm
from moshi_agent.training.tiny.tokenizer import load_tokenizer

MISSING = [command for command in ("flite", "espeak-ng") if shutil.which(command) is None]
SHORT = Recipe(
    corpus=CorpusPlan(
        grammar_sentences=2,
        world_sentences=2,
        rows_of_words=2,
        renderings_per_question=1,
        unknown=16,
        recordings=0,
    ),
    call_speech=CallSpeechPlan(said=6, found=1, renderings_per_question=1),
    encoder=EncoderTraining(steps=4, batch=2, frames=4, continuous_steps=2, pool_steps=2),
    decoder=DecoderTraining(steps=2, batch=2, frames=4),
    calls=LMDataPlan(shards=1, told_shards=1, calls_per_shard=2, frames=250),
    lm=LMTraining(steps=2, batch=2, frames=60, short_batch=2),
)


def test_the_built_in_model_fits_into_40_megabytes() -> None:
    """Two bytes for each weight, four for those of the codebooks."""
    lm = LMModel(tiny_lm())
    lm.add_references()
    count = sum(p.numel() for model in (MimiModel(tiny_codec()), lm) for p in model.parameters())
    codebooks = 8 * 1024 * (64 + 1)
    assert 2 * count + 4 * codebooks < 40_000_000


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
    _goes_on(places, tmp_path)


def _goes_on(places: Places, tmp_path: Path) -> None:
    """A run from what was exported, with the same speech, changes the language model and not the codec."""
    second = Places(tmp_path / "onwards", tmp_path / "second")
    start_from(str(places.export), SHORT, second)
    second.corpus.symlink_to(places.corpus)
    second.call_speech.symlink_to(places.call_speech)
    run_recipe(SHORT, second)
    before, after = load_checkpoint(places.export), load_checkpoint(second.export)
    assert before.lm is not None and after.lm is not None
    for name, weight in before.mimi.state_dict().items():
        assert torch.equal(after.mimi.state_dict()[name], weight), name
    assert not torch.equal(after.lm.state_dict()["emb.0.weight"], before.lm.state_dict()["emb.0.weight"])


def test_a_run_from_a_model_keeps_its_codec(tmp_path: Path) -> None:
    """What the stages go on from is the model's weights; they are taken once."""
    places = Places(tmp_path / "run", tmp_path / "model")
    start_from("tiny", SHORT, places)
    shipped = load_checkpoint("tiny")
    assert shipped.lm is not None and shipped.tokenizer is not None
    lm = LMModel(tiny_lm())
    lm.add_references()
    load_weights(lm, places.start)
    kept, trained = lm.state_dict(), shipped.lm.state_dict()
    assert all(torch.equal(kept[name], trained[name]) for name in trained)
    codecs = [load_codec(path, tiny_codec()) for path in (places.encoder, places.decoder)]
    for codec in codecs:
        ours, theirs = codec.state_dict(), shipped.mimi.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_tokenizer(places.tokenizer).encode("Hello") == shipped.tokenizer.encode("Hello")
    made = places.start.stat().st_mtime_ns
    start_from("tiny", SHORT, places)
    assert places.start.stat().st_mtime_ns == made


def test_a_share_of_what_a_run_goes_on_from_is_kept(tmp_path: Path) -> None:
    before, after = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_weights(before, tmp_path / "before.pt")
    wanted = {name: 0.25 * before.state_dict()[name] + 0.75 * w for name, w in after.state_dict().items()}
    keep(after, tmp_path / "before.pt", 0.25)
    for name, weight in after.state_dict().items():
        torch.testing.assert_close(weight, wanted[name])


def test_a_run_from_another_architecture_is_refused(tmp_path: Path) -> None:
    """The error comes before anything is written."""
    places = Places(tmp_path / "run", tmp_path / "model")
    wider = replace(SHORT, lm_model=replace(tiny_lm(), card=600))
    with pytest.raises(ConfigError, match="not built as this recipe"):
        start_from("tiny", wider, places)
    assert not places.folder.exists()


def test_a_stage_can_be_asked_for_alone(tmp_path: Path) -> None:
    """A stage without what it needs says so instead of making it."""
    places = Places(tmp_path / "run", tmp_path / "model")
    with pytest.raises(ConfigError, match="stages before"):
        run_recipe(SHORT, places, ("export",))
    assert not (tmp_path / "model").exists()
