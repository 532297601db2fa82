"""The codec against Kyutai's: files of two generations, offline and in desynchronised streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from moshi_agent.models import loaders
from moshi_agent.models.mimi import MimiModel

Check = Callable[..., None]


@pytest.fixture(params=["mimi", "mimi_oldest_names"])
def case(request: pytest.FixtureRequest, golden):
    return golden(request.param)


@pytest.fixture(params=["plain", "packed"])
def mimi(request: pytest.FixtureRequest, case) -> Iterator[MimiModel]:
    config = case.json()
    model = loaders.get_mimi(case.weights, config, device="cpu", num_codebooks=config["quantizer"]["n_q"])
    if request.param == "packed":
        model.pack("float32")
    with torch.no_grad():
        yield model


@pytest.fixture
def peer(case) -> dict[str, Tensor]:
    return case.tensors("data")


def test_offline_codes_are_the_peers(
    mimi: MimiModel, peer: dict[str, Tensor], assert_same_codes: Check
) -> None:
    assert_same_codes(mimi.encode(peer["offline.speech"]), peer["offline.codes"])


def test_a_partial_last_frame_is_padded_like_the_peers(
    mimi: MimiModel, peer: dict[str, Tensor], assert_same_codes: Check
) -> None:
    speech = peer["offline.speech"]
    assert_same_codes(
        mimi.encode(speech[..., : speech.shape[-1] * 2 // 3 + 7]), peer["offline.codes_odd_length"]
    )


def test_offline_latents_are_the_peers(mimi: MimiModel, peer: dict[str, Tensor], assert_close: Check) -> None:
    speech = peer["offline.speech"]
    assert_close(mimi.encode_to_latent(speech, quantize=False), peer["offline.latent"], relative=True)
    assert_close(mimi.encode_to_latent(speech), peer["offline.quantized"], relative=True)


def test_offline_audio_is_the_peers(mimi: MimiModel, peer: dict[str, Tensor], assert_close: Check) -> None:
    assert_close(mimi.decode(peer["offline.codes"]), peer["offline.decoded"], relative=True)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_codebooks_give_what_the_peer_gives(
    mimi: MimiModel, peer: dict[str, Tensor], assert_same_codes: Check, assert_close: Check, count: int
) -> None:
    mimi.set_num_codebooks(count)
    assert mimi.num_codebooks == count
    assert_same_codes(mimi.encode(peer["offline.speech"]), peer[f"offline.codes_{count}"])
    assert_close(
        mimi.encode_to_latent(peer["offline.speech"]), peer[f"offline.quantized_{count}"], relative=True
    )
    assert_close(
        mimi.decode(peer[f"offline.codes_{count}"][..., :6]), peer[f"offline.decoded_{count}"], relative=True
    )


def test_a_desynchronised_stream_is_the_peers(
    mimi: MimiModel, peer: dict[str, Tensor], assert_same_codes: Check, assert_close: Check
) -> None:
    """Over three times the context of the transformers, with rows that pause and rows that start again."""
    executed, resets, peer_codes = (
        peer["streaming.executed"],
        peer["streaming.resets"],
        peer["streaming.codes"],
    )
    frames = peer["streaming.speech"].split(mimi.frame_size, dim=-1)
    codes, decoded = [], []
    with mimi.streaming(executed.shape[1]):
        for step, frame in enumerate(frames):
            if resets[step].any():
                mimi.reset_streaming(resets[step])
            mimi.set_exec_mask(executed[step])
            codes.append(mimi.encode(frame)[..., 0])
            # The peer's codes, so that one code that differs would not count twice.
            decoded.append(mimi.decode(peer_codes[step, :, :, None])[executed[step]])
    assert_same_codes(torch.stack(codes)[executed], peer_codes[executed])
    assert_close(torch.cat(decoded), peer["streaming.decoded"], relative=True)
