"""The language model learns from encoded calls and goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.conversations import ANSWER_DELAY_FRAMES
from moshi_agent.training.tiny.lm import LMTrainer, LMTraining
from moshi_agent.training.tiny.lm_data import MOST_BEFORE, LMData
from moshi_agent.training.tiny.lm_losses import LMLossConfig
from moshi_agent.training.tiny.stage import run_training
from moshi_agent.training.tiny.tokenizer import PADDING
from tests.small_models import small_lm
from tests.training.tiny.training_material import CODEBOOKS, QUIET, echoing_calls

TRAINING = LMTraining(
    steps=40, batch=4, frames=40, short_batch=8, short_frames=20, learning_rate=1e-2, bfloat16=False
)

NOISELESS = LMLossConfig(own_noise=0, user_noise=0, text_noise=0, fewer_codebooks_share=0, gap_share=0)


def test_the_model_learns() -> None:
    """Text, codes and what is asked are all learnt where they follow from the caller's codes."""
    trainer = LMTrainer(small_lm(), TRAINING, echoing_calls())
    first = trainer.train_step()
    while trainer.step < TRAINING.steps:
        last = trainer.train_step()
    assert all(last[term] < 0.5 * first[term] for term in ("text", "audio"))
    # Half of what is asked has just changed when the model is to know it.
    assert last["asked"] < 0.9 * first["asked"]


def test_a_loaded_model_is_trained_too() -> None:
    """Models are loaded without gradients; a step changes every weight that has a part in the losses."""
    model = small_lm().requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    LMTrainer(model, TRAINING, echoing_calls()).train_step()
    unmoved = [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]
    assert not unmoved


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped half-way and resumed, the averaged model comes out equal."""
    config = replace(TRAINING, steps=8)
    whole = LMTrainer(small_lm(), config, echoing_calls())
    run_training(whole, tmp_path / "whole")
    for steps in (4, 8):
        part = LMTrainer(small_lm(), config, echoing_calls())
        run_training(part, tmp_path / "parts", until=steps)
    for ours, theirs in zip(part.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_agrees_with_the_model_s_own_forward() -> None:
    """Without noise the text term is the cross entropy of `LMModel.forward`'s logits."""
    losses = replace(NOISELESS, padding_weight=1.0, spoken_share=1.0, quiet_share=1.0)
    trainer = LMTrainer(small_lm(), replace(TRAINING, losses=losses), echoing_calls())
    batch = trainer.draw(np.random.default_rng(0))
    out = trainer.model(batch.codes)
    text = torch.nn.functional.cross_entropy(out.text_logits[:, 0].transpose(1, 2), batch.codes[:, 0])
    terms = trainer.loss(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms["text"], text)
    audio = [
        torch.nn.functional.cross_entropy(out.logits[:, k, 1:-1].transpose(1, 2), batch.codes[:, 1 + k, 1:-1])
        for k in range(CODEBOOKS)
    ]
    weighted = sum(w * a for w, a in zip((losses.first_codebook_weight, 1), audio, strict=True))
    # The first and the last frame of a crop have only some of their codebooks.
    difference = terms["audio"] - weighted / (losses.first_codebook_weight + CODEBOOKS - 1)
    assert abs(difference.item()) < 0.05


def test_frames_in_which_the_bot_is_interrupted_always_count() -> None:
    """With all other frames left out, codes are learnt where the bot speaks while something is asked."""
    nothing_else = LMLossConfig(spoken_share=0, quiet_share=0)
    trainer = LMTrainer(small_lm(), replace(TRAINING, losses=nothing_else), echoing_calls())
    batch = replace(
        trainer.draw(np.random.default_rng(0)), begins=torch.zeros(TRAINING.batch, dtype=torch.bool)
    )
    assert bool((batch.asked > 0).any())
    asked = trainer.loss(batch, torch.Generator().manual_seed(0))
    unasked = trainer.loss(
        replace(batch, asked=torch.zeros_like(batch.asked)), torch.Generator().manual_seed(0)
    )
    assert asked["audio"].item() > 1
    assert unasked["audio"].item() == 0


def test_nothing_is_learnt_from_stopping_late() -> None:
    """Where the bot should have stopped before, its codes do not count, nor its text a frame earlier."""
    trainer = LMTrainer(
        small_lm(), replace(TRAINING, losses=replace(NOISELESS, padding_weight=1.0)), echoing_calls()
    )
    batch = trainer.draw(np.random.default_rng(0))
    nothing_begins = torch.zeros_like(batch.begins)
    everywhere = replace(batch, late=torch.ones_like(batch.late), begins=nothing_begins)
    assert trainer.loss(everywhere, torch.Generator().manual_seed(0))["audio"].item() == 0
    late = torch.zeros_like(batch.late)
    late[:, 5:15] = True
    text = trainer.loss(replace(batch, late=late), torch.Generator().manual_seed(0))["text"]
    logits = trainer.model(batch.codes).text_logits[:, 0].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, batch.codes[:, 0], reduction="none")
    kept = torch.ones(TRAINING.frames, dtype=torch.bool)
    kept[4:14] = False
    torch.testing.assert_close(text, losses[:, kept].mean())


def test_what_the_bot_was_told_to_write_is_no_example_of_when_to() -> None:
    """Its text does not count where it was told to begin, its codes do."""
    trainer = LMTrainer(
        small_lm(), replace(TRAINING, losses=replace(NOISELESS, padding_weight=1.0)), echoing_calls()
    )
    batch = trainer.draw(np.random.default_rng(0))
    told = torch.zeros_like(batch.told)
    told[:, 5:15] = True
    before = trainer.loss(batch, torch.Generator().manual_seed(0))
    after = trainer.loss(replace(batch, told=told), torch.Generator().manual_seed(0))
    logits = trainer.model(batch.codes).text_logits[:, 0].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, batch.codes[:, 0], reduction="none")
    torch.testing.assert_close(after["text"], losses[~told].mean())
    assert torch.equal(after["audio"], before["audio"])


def test_what_is_only_in_the_references_is_learnt_from_them() -> None:
    """The text follows tokens that the model is given beside it; without its table it learns none of it."""
    calls = echoing_calls()
    rng = np.random.default_rng(1)
    given = rng.integers(5, 12, size=(len(calls.codes), 60)).repeat(2, axis=1).astype(np.int16)
    codes = calls.codes.copy()
    codes[:, :, 0] = given
    data = replace(calls, codes=codes, references=given)
    last: list[float] = []
    for with_table in (True, False):
        model = small_lm()
        if with_table:
            model.add_references()
        trainer = LMTrainer(model, replace(TRAINING, losses=NOISELESS), data)
        while trainer.step < TRAINING.steps:
            figures = trainer.train_step()
        last.append(figures["text"])
        if with_table:
            assert model.oracle_emb is not None
            assert not model.oracle_emb.weight[PADDING].any()
            assert model.oracle_emb.weight[PADDING + 1].any()
    assert last[0] < 0.8 * last[1]


def test_delays_stand_behind_one_initial_token() -> None:
    """As in the model itself."""
    model = small_lm()
    codes = torch.randint(0, 12, (2, 1 + 2 * CODEBOOKS, 10))
    tokens = model.delayed(codes)
    assert tokens[0, :, 0].tolist() == model.initial_tokens().tolist()
    assert torch.equal(tokens[:, 0, 1:], codes[:, 0])
    assert torch.equal(tokens[:, 2, 2:], codes[:, 2, :-1])
    assert int(tokens[0, 2, 1]) == model.card


def test_crops_are_pieces_of_calls() -> None:
    """Each crop's text, codes and question come from the same frames of one call."""
    data = echoing_calls()
    codes, references, asked, late, told, begins = data.crops(np.random.default_rng(1), 5, 30)
    assert references.shape == (5, 30) and (references == PADDING).all()
    assert begins.shape == (5,) and late.shape == told.shape == (5, 30)
    assert codes.shape == (5, 1 + 2 * CODEBOOKS, 30) and asked.shape == (5, 30)
    assert (codes[:, 1 + CODEBOOKS] == asked + 5).all()
    assert set(np.unique(codes[:, 1])) <= {QUIET, 5, 6, 7}


def test_only_a_question_s_own_frames_change_their_pace() -> None:
    """Frames of a question are left out or doubled, in their order; what is before and after it stays."""
    frames, first, last = 120, 30, 60
    asked = np.zeros((1, frames), np.int16)
    asked[0, first : last + 1 + ANSWER_DELAY_FRAMES] = 1
    numbers = np.arange(frames, dtype=np.int16)
    codes = np.full((1, frames, 3), QUIET, np.int16)
    codes[0, last + ANSWER_DELAY_FRAMES :, 1] = 5
    codes[0, :, 2] = numbers
    nowhere = np.zeros(asked.shape, bool)
    none = np.full(asked.shape, PADDING, np.int16)
    data = LMData(codes, none, asked, nowhere, nowhere, np.full(1, QUIET, np.int16))
    crops = data.question_crops(np.random.default_rng(0), 20, 60, pace_share=0.5)
    assert len({tuple(row) for row in crops.codes[:, 2]}) == 20
    for user, bot in zip(crops.codes[:, 2], crops.codes[:, 1], strict=True):
        assert (np.diff(user) >= 0).all()
        once = [number for number in range(int(user[0]), int(user[-1])) if not first <= number <= last]
        assert all((user == number).sum() == 1 for number in once)
        assert ((bot == 5) == (user >= last + ANSWER_DELAY_FRAMES)).all()


def test_a_folder_without_calls_is_refused(tmp_path: Path) -> None:
    """The error says where they should have been."""
    with pytest.raises(ConfigError, match="no encoded calls"):
        LMData.open(tmp_path)


def test_what_the_bot_is_told_to_say_is_read_from_shortly_before_its_beginning() -> None:
    calls = echoing_calls()
    told = np.zeros_like(calls.told)
    told[1, 50:53] = told[4, 80:84] = True
    data = replace(calls, told=told)
    assert data.beginnings.tolist() == [[1, 50], [4, 80]]
    crops = data.told_crops(np.random.default_rng(2), 40, 30)
    firsts = crops.told.argmax(1)
    assert crops.told.any(1).all() and set(firsts) <= set(range(1, MOST_BEFORE + 1))
    assert {int(row.sum()) for row in crops.told} == {3, 4}


def test_an_interruption_is_read_from_shortly_before_the_caller_speaks() -> None:
    """Questions into the bot's silence are none."""
    calls = echoing_calls()
    codes, asked = calls.codes.copy(), np.zeros_like(calls.asked)
    codes[:, :, 1 : 1 + CODEBOOKS] = calls.quiet
    asked[2, 50:60] = asked[3, 30:40] = asked[3, 90:100] = 1
    codes[2, 40:53, 1 : 1 + CODEBOOKS] = codes[3, 80:92, 1] = 5
    data = replace(calls, codes=codes, asked=asked)
    assert data.interruptions.tolist() == [[2, 50], [3, 90]]
    crops = data.interruption_crops(np.random.default_rng(2), 40, 30)
    begins = crops.asked.argmax(1)
    assert set(begins) <= set(range(1, MOST_BEFORE + 1))
    assert all(crops.codes[row, 1, begin] == 5 for row, begin in enumerate(begins))


@pytest.mark.parametrize("step", range(len(TRAINING.crops)))
def test_each_step_reads_the_crops_whose_turn_it_is(step: int) -> None:
    calls = echoing_calls()
    told = calls.told.copy()
    told[:, 70] = True
    trainer = LMTrainer(small_lm(), TRAINING, replace(calls, told=told))
    trainer.step = step
    batch = trainer.draw(np.random.default_rng(0))
    kind = TRAINING.crops[step]
    rows, frames = (4, 40) if kind == "long" else (8, 20)
    assert batch.codes.shape == (rows, 1 + 2 * CODEBOOKS, frames)
    assert kind != "told" or bool(batch.told.any(1).all())
