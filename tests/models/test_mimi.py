"""Mimi: streams, rows, and bad input. That it is the published codec is shown in tests/parity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from tests.small_models import small_mimi


def _audio(rows: int, frames: int) -> Tensor:
    return 0.1 * torch.randn(rows, 1, 1920 * frames, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_a_saved_row_goes_on_elsewhere() -> None:
    """A row that is saved and loaded into another row of another batch continues its stream."""
    mimi, audio = small_mimi(), _audio(1, 6)
    state = mimi.init_state(1)
    mimi.encode_latent(audio[..., : 3 * 1920], state, None)
    saved = state.save_row(0)
    wanted = mimi.encode_latent(audio[..., 3 * 1920 :], state, None)
    larger = mimi.init_state(3)
    mimi.encode_latent(_audio(3, 2), larger, None)
    larger.load_row(2, saved)
    got = mimi.encode_latent(audio[..., 3 * 1920 :].expand(3, -1, -1), larger, None)
    torch.testing.assert_close(got[2:], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_row_without_tokens_is_decoded_to_silence_and_kept() -> None:
    """Ungenerated tokens leave the row as it was and sound as silence."""
    mimi = small_mimi()
    codes = torch.randint(0, 32, (2, 4, 3), generator=torch.Generator().manual_seed(2))
    with mimi.streaming(2):
        first = mimi.decode(codes[..., :1])
        gap = codes[..., 1:2].clone()
        gap[1] = UNGENERATED_TOKEN
        masked = mimi.decode(gap)
        resumed = mimi.decode(torch.cat([codes[:1, :, 2:], codes[1:, :, 1:2]]))
    whole = mimi.decode(codes)
    assert (masked[1] == 0).all()
    torch.testing.assert_close(
        torch.cat([first[0], masked[0], resumed[0]], -1), whole[0], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        torch.cat([first[1], resumed[1]], -1), whole[1, :, : 2 * 1920], atol=1e-5, rtol=1e-4
    )


def test_frames_of_another_form_are_refused() -> None:
    """Each wrong input gets an error that says what is accepted, and the stream goes on."""
    mimi, audio = small_mimi(), _audio(2, 1)
    wrong = [audio[..., :1000], audio[:1], audio[:, 0], audio.double(), audio.repeat(1, 2, 1), audio[..., :0]]
    with mimi.streaming(2):
        for chunk in wrong:
            with pytest.raises(InputError, match=r"accepted|opened"):
                mimi.encode(chunk)
        assert mimi.encode(audio).shape == (2, 4, 1)


def test_codes_of_another_form_are_refused() -> None:
    """Codes out of range, of another type or shape."""
    mimi = small_mimi()
    good = torch.zeros(1, 4, 1, dtype=torch.long)
    for codes in (good + 32, good - 1, good.float(), good[0], good.repeat(1, 2, 1)):
        with pytest.raises(InputError, match="accepted"):
            mimi.decode(codes)
    assert mimi.decode(good).shape == (1, 1, 1920)


def test_the_number_of_codebooks_is_checked() -> None:
    """From one to as many as there are."""
    mimi = small_mimi()
    for count in (0, 5):
        with pytest.raises(InputError, match="accepted: 1 to 4"):
            mimi.set_num_codebooks(count)
    mimi.set_num_codebooks(1)
    assert mimi.encode(_audio(1, 2)).shape == (1, 1, 2)
