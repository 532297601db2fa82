"""Generation: rows that are not in step, forced tokens, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from tests.small_models import small_lm

_FRAMES = 30


def _user(rows: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 32, (rows, 2, _FRAMES), generator=torch.Generator().manual_seed(seed))


def _run_alone(user: Tensor, **options: object) -> list[list[int]]:
    """The frames that one stream gives. user: [1, 2, T]."""
    generator = LMGen(small_lm(), **options)  # pyright: ignore[reportArgumentType]
    with generator.streaming(1):
        outs = [generator.step(user[:, :, t : t + 1]) for t in range(user.shape[2])]
    return [out[0, :, 0].tolist() for out in outs if out is not None]


@pytest.mark.parametrize("packed", [False, True])
def test_rows_out_of_step_say_what_they_say_alone(packed: bool) -> None:
    """With random exec masks and resets, each row's frames are those of the row alone, sampled ones too."""
    model = small_lm()
    if packed:
        model.pack()
    user, options = _user(3), {"temp": 1.0, "temp_text": 1.0, "seed": 11}
    wanted = [_run_alone(user[row : row + 1], **options) for row in range(3)]
    generator = LMGen(model, **options)  # pyright: ignore[reportArgumentType]
    position, got = [0, 0, 0], [[], [], []]
    chance = torch.Generator().manual_seed(3)
    with generator.streaming(3):
        for step in range(60):
            mask = torch.rand(3, generator=chance) < 0.7
            mask &= torch.tensor([p < _FRAMES for p in position])
            if step == 20:
                generator.reset_streaming(torch.tensor([False, True, False]))
                position[1], got[1] = 0, []
            generator.set_exec_mask(mask)
            columns = torch.stack([user[row, :, min(position[row], _FRAMES - 1)] for row in range(3)])
            out = generator.step(columns[:, :, None])
            for row in range(3):
                if mask[row] and out is not None and out[row, 0, 0] != UNGENERATED_TOKEN:
                    got[row].append(out[row, :, 0].tolist())
                position[row] += int(mask[row])
    for row in range(3):
        assert len(got[row]) > 10
        assert got[row] == wanted[row][: len(got[row])]


def test_a_reset_silences_only_its_own_row() -> None:
    """The other rows go on at once; the row that was reset holds the ungenerated token until it is ready."""
    generator = LMGen(small_lm(), use_sampling=False)
    user = _user(2)
    with generator.streaming(2):
        assert generator.step(user[:, :, :1]) is None
        for t in range(1, 5):
            generator.step(user[:, :, t : t + 1])
        generator.reset_streaming(torch.tensor([True, False]))
        out = generator.step(user[:, :, 5:6])
        assert out is not None
        assert (out[0] == UNGENERATED_TOKEN).all() and (out[1] >= 0).all()
        out = generator.step(user[:, :, 6:7])
        assert out is not None and (out >= 0).all()


def test_a_reset_leaves_the_exec_mask_alone() -> None:
    """A row that was switched off stays off when it is reset."""
    generator = LMGen(small_lm(), use_sampling=False)
    with generator.streaming(2):
        generator.set_exec_mask(torch.tensor([True, False]))
        generator.reset_streaming(torch.tensor([False, True]))
        for t in range(4):
            generator.step(_user(2)[:, :, t : t + 1])
        assert generator.streaming_state.ring.offset.tolist() == [4, 0]


def test_a_seed_repeats_and_another_differs() -> None:
    """Sampled conversations are a function of the seed."""
    user = _user(1)
    once, again, other = (_run_alone(user, temp=1.0, temp_text=1.0, seed=seed) for seed in (5, 5, 6))
    assert once == again
    assert once != other


def test_forced_tokens_are_said_and_heard() -> None:
    """A forced token comes out, and the model's own choice after it follows from it."""
    user, text = _user(1), 17
    generator = LMGen(small_lm(), use_sampling=False)
    forced = torch.full((1, 3, 1), UNGENERATED_TOKEN)
    forced[:, 0] = text
    with generator.streaming(1):
        for t in range(10):
            out = generator.step(user[:, :, t : t + 1], forced_tokens=forced)
            assert out is None or out[0, 0, 0] == text
        assert generator.last_sampled is not None and generator.last_sampled.shape == (1, 3)
    free = _run_alone(user[:, :, :10], use_sampling=False)
    assert out is not None and out[0, 1:, 0].tolist() != free[-1][1:]


def test_hooks_see_and_may_change_tokens() -> None:
    """A text hook that writes a token in place makes the model say it; an audio hook likewise."""

    def say_seven(tokens: Tensor) -> None:
        tokens.fill_(7)

    generator = LMGen(small_lm(), on_text_hook=say_seven, on_audio_hook=say_seven)
    with generator.streaming(1):
        for t in range(4):
            out = generator.step(_user(1)[:, :, t : t + 1])
    assert out is not None and (out == 7).all()


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(2, 2, 1, dtype=torch.long),
        torch.zeros(1, 1, 1, dtype=torch.long),
        torch.zeros(1, 2, 2, dtype=torch.long),
        torch.zeros(1, 2, dtype=torch.long),
        torch.full((1, 2, 1), 33),
        torch.full((1, 2, 1), -3),
    ],
)
def test_input_of_another_form_is_refused(tokens: Tensor) -> None:
    """Wrong rows, streams, steps or values get an error that says what is accepted."""
    generator = LMGen(small_lm())
    with generator.streaming(1), pytest.raises(InputError, match="accepted"):
        generator.step(tokens)


def test_masks_of_another_form_are_refused() -> None:
    """A mask is one bool per row."""
    generator = LMGen(small_lm())
    with pytest.raises(InputError, match="streaming"):
        generator.step(_user(1)[:, :, :1])
    with generator.streaming(2):
        for mask in (torch.tensor([True]), torch.tensor([1, 0]), torch.ones(2, 1, dtype=torch.bool)):
            with pytest.raises(InputError, match="accepted"):
                generator.set_exec_mask(mask)
            with pytest.raises(InputError, match="accepted"):
                generator.reset_streaming(mask)
    with pytest.raises(InputError, match="batch_size"):
        generator.streaming(0)


def test_a_model_in_training_mode_is_refused() -> None:
    """Generation wants the model as it is used."""
    with pytest.raises(InputError, match="training"):
        LMGen(small_lm().train())
