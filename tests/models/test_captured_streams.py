"""`LMGen` and `MimiModel` whose steps are captured: what comes out is what comes out without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.errors import InputError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn import cache_attention, fused, streaming
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.state import State
from tests.engine.calling_device import CallingDevice
from tests.small_models import small_lm, small_lm_config, small_mimi, small_mimi_config

_ROWS, _STEPS = 3, 24  # beyond the context of 8
_SAMPLED: dict[str, Any] = {"temp": 1.0, "temp_text": 1.0, "top_k": 12, "top_k_text": 0, "seed": 5}
_GUIDED: dict[str, Any] = {"cfg_coef": 2.0, "cfg_is_masked_until": [2, 4, 0], "cfg_is_no_text": True}


def _no_low_tokens(tokens: Tensor) -> None:
    tokens.clamp_(min=4)


def _flat(logits: Tensor) -> None:
    logits.mul_(0.5)


_OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"use_sampling": False},
    "sampled": _SAMPLED,
    "out of sync": {**_SAMPLED, "support_out_of_sync": True},
    "guided": {**_SAMPLED, **_GUIDED},
    "hooks": {**_SAMPLED, "on_text_hook": _no_low_tokens, "on_text_logits_hook": _flat},
    "guided, with hooks": {**_SAMPLED, **_GUIDED, "on_audio_hook": _no_low_tokens},
}


def _stream(model: LMModel, options: dict[str, Any], graphs: GraphDevice | bool) -> list[Tensor | None]:
    """Rows that wait and are reset, tokens that are forced and audio that is given, settings that change."""
    generator = LMGen(model, **options, cuda_graphs=graphs)
    chance, outputs = torch.Generator().manual_seed(1), list[Tensor | None]()

    def draw(*shape: int) -> Tensor:
        return torch.randint(0, 30, shape, generator=chance)

    with generator.streaming(_ROWS):
        assert generator.sampling is not None
        addresses = _addresses(generator.streaming_state)
        for step in range(_STEPS):
            user, forced, replaced = draw(_ROWS, 2, 1), draw(_ROWS, 3, 1), draw(_ROWS, 2, 1)
            if step in (9, 10):
                generator.set_exec_mask(torch.tensor([step == 9, True, False]))
            elif step == 11:
                generator.set_exec_mask(torch.ones(_ROWS, dtype=torch.bool))
            elif step == 15:
                generator.reset_streaming(torch.tensor([False, True, False]))
            elif step == 20:
                generator.sampling.set_row(1, generator.sampling_config)
            outputs.append(
                generator.step(
                    user,
                    depformer_replace_tokens=replaced if step == 6 else None,
                    forced_tokens=forced.masked_fill(forced < 15, -2) if step in (4, 12) else None,
                )
            )
            outputs.append(generator.last_sampled)
        assert addresses == _addresses(generator.streaming_state)
    return outputs


def _addresses(state: State) -> list[int]:
    return [tensor.data_ptr() for tensor in state.tensors()]


@pytest.mark.parametrize("name", [*_OPTIONS, "sampled, packed"])
def test_captured_generation_says_what_it_says_without(name: str) -> None:
    """Sampled tokens and those that the model itself chose, and None where there is none."""
    model, options = small_lm(), _OPTIONS[name.removesuffix(", packed")]
    if name.endswith("packed"):
        model.pack()
    device = CallingDevice()
    captured, plain = _stream(model, options, device), _stream(model, options, False)
    for one, other in zip(captured, plain, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)
    # One graph for steps of each kind: plain, with forced tokens, with audio that is given. With hooks the
    # temporal part is always the same, and audio that is given is not chosen.
    assert device.captured == 3
    assert len({one.tobytes() for one in (out.numpy() for out in plain if out is not None)}) > _STEPS


def test_captured_settings_that_change_what_is_computed_have_a_graph_of_their_own() -> None:
    """A row that keeps more candidates than any before: the same draws as without graphs."""
    outputs: list[list[Tensor | None]] = []
    devices = (CallingDevice(), False)
    for device in devices:
        generator = LMGen(small_lm(), **_SAMPLED, cuda_graphs=device)
        user = torch.randint(0, 30, (2, 2, 8), generator=torch.Generator().manual_seed(1))
        with generator.streaming(2):
            assert generator.sampling is not None
            steps: list[Tensor | None] = []
            for step in range(8):
                if step == 4:
                    config = SamplingConfig(temp=1.5, temp_text=1.5, top_k=30, top_p=0.9, seed=2)
                    generator.sampling.set_row(1, config)
                steps.append(generator.step(user[:, :, step : step + 1]))
        outputs.append(steps)
    for one, other in zip(*outputs, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # pyright: ignore[reportArgumentType]
    assert devices[0].captured == 2


def test_extra_heads_and_bad_input_are_as_without() -> None:
    generator = LMGen(small_lm(), use_sampling=False, cuda_graphs=CallingDevice())
    user = torch.zeros(1, 2, 1, dtype=torch.long)
    with generator.streaming(1):
        with pytest.raises(InputError, match="codes from 33 to 33"):
            generator.step(user + 33)
        assert generator.step_with_extra_heads(user) is None
        out = generator.step_with_extra_heads(user)
        assert out is not None and out[0].shape == (1, 3, 1) and out[1] == []


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_a_captured_codec_gives_the_codes_and_the_sound_that_it_gives_without(packed: bool) -> None:
    """Rows that wait, codes that are none yet, codebooks that become fewer, chunks of several frames."""
    model, device = small_mimi(), CallingDevice()
    if packed:
        model.pack()
    chance = torch.Generator().manual_seed(2)
    audio = 0.1 * torch.randn(2, 1, 16 * model.frame_size, generator=chance)
    given = torch.randint(0, 32, (2, 3, 16), generator=chance)
    given[1, :, :3] = -1
    results: list[list[Tensor]] = []
    for graphs in (device, False):
        model.set_num_codebooks(4)
        model.cuda_graphs = graphs
        found: list[Tensor] = []
        with model.streaming(2):
            addresses = _addresses(model.streaming_state)
            for frame in range(14):
                if frame == 6:
                    model.set_exec_mask(torch.tensor([True, False]))
                if frame == 9:
                    model.set_exec_mask(torch.ones(2, dtype=torch.bool))
                    model.reset_streaming(torch.tensor([True, False]))
                if frame == 11 and not packed:
                    model.set_num_codebooks(2)
                place = slice(frame * model.frame_size, (frame + 1) * model.frame_size)
                codes = model.encode(audio[:, :, place])
                found += [codes[:1] if 6 <= frame < 9 else codes, model.decode(given[:, :, frame, None])]
            found.append(model.encode(audio[:, :, 14 * model.frame_size :]))
            found.append(model.decode(given[:, :, 14:]))
            assert addresses == _addresses(model.streaming_state)
        results.append(found)
    for number, (one, other) in enumerate(zip(*results, strict=True)):
        is_waiting = number in (13, 15, 17)  # a row that does not execute has no sound of its own
        assert torch.equal(one[:1], other[:1]) if is_waiting else torch.equal(one, other)
    assert device.captured == (2 if packed else 4)


@torch.no_grad()
def test_weights_that_have_been_moved_are_captured_anew() -> None:
    """And those that are where they were are not, but for a codec's, which makes tables of them."""
    lm, mimi, device = small_lm(), small_mimi(), CallingDevice()
    generator, mimi.cuda_graphs = LMGen(lm, use_sampling=False, cuda_graphs=device), device
    user, audio = torch.zeros(1, 2, 1, dtype=torch.long), torch.zeros(1, 1, mimi.frame_size)
    captured: list[int] = []
    with generator.streaming(1), mimi.streaming(1):
        for move in ("float", "float", "double"):
            for model in (lm, mimi):
                getattr(model, move)()
            lm.float()
            mimi.float()
            generator.step(user)
            generator.step(user)
            captured.append(device.captured)
            device.captured = 0
            mimi.encode(audio)
            captured.append(device.captured)
            device.captured = 0
        mimi.load_state_dict(mimi.state_dict())
        mimi.encode(audio)
    assert captured == [1, 1, 0, 1, 1, 1] and device.captured == 1


def test_steps_that_may_be_launched_at_once_share_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[CallingDevice] = []

    def choose(wanted: object, device: torch.device) -> CallingDevice:
        chosen.append(CallingDevice())
        return chosen[-1]

    monkeypatch.setattr(streaming, "choose_graph_device", choose)
    mimi = small_mimi()
    with mimi.streaming(1), torch.no_grad():
        mimi.decode(mimi.encode(torch.zeros(1, 1, mimi.frame_size)))
    assert [device.captured for device in chosen] == [1, 1]


def test_where_gradients_are_wanted_nothing_is_captured() -> None:
    model, device = small_mimi(), CallingDevice()
    model.cuda_graphs = device
    with model.streaming(1):
        latent = model.encode_to_latent(torch.zeros(1, 1, model.frame_size), quantize=False)
        codes = model.encode(torch.zeros(1, 1, model.frame_size))
        model.decode(codes)
    assert latent.requires_grad and device.captured == 0


def test_a_captured_step_asks_the_device_nothing() -> None:
    """On tensors without values, which say they are CUDA's: to look at one, or to bring one along, raises."""
    with torch.device("meta"):
        mimi, lm = MimiModel(small_mimi_config()).eval(), LMModel(small_lm_config(300)).eval()
        generator = LMGen(lm, **_SAMPLED, **_GUIDED)
        generator.on_audio_hook = _no_low_tokens
        generator.streaming_forever(3)
        mimi.streaming_forever(3)
        mask = torch.ones(3, dtype=torch.bool)
        user, forced, text = (torch.zeros(3, count, dtype=torch.long) for count in (2, 3, 1))
        hidden = torch.zeros(3, 1, lm.config.temporal.dim)
        codes, audio = user[:, :, None], torch.zeros(3, 1, mimi.frame_size)
    steps: list[Callable[[], tuple[Tensor, ...]]] = [
        lambda: generator._whole_step(mask, user, forced, None, None),
        lambda: generator._temporal_part(mask, None),
        lambda: generator._audio_part(mask, hidden, hidden, text[:, 0], forced),
        lambda: mimi._encoded(mask, audio),
        lambda: mimi._decoded(mask, codes),
    ]
    on_cuda = property(lambda tensor: tensor.device.type == "meta")
    with (
        mock.patch.object(torch.Tensor, "is_cuda", on_cuda),
        mock.patch.object(fused, "serves", lambda x: False),
        mock.patch.object(cache_attention, "serves", lambda config, device: False),
        torch.inference_mode(),
    ):
        for step in steps:
            assert all(result.device.type == "meta" for result in step())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS.keys())
def test_on_a_gpu_captured_generation_follows_the_plain_one(options: dict[str, Any]) -> None:
    """Everything forced, so that both stay on one path: what the model itself would choose is the same."""
    outputs: list[list[Tensor]] = []
    for graphs in (True, False):
        generator = LMGen(small_lm().to("cuda"), **options, cuda_graphs=graphs)
        chance, chosen = torch.Generator().manual_seed(1), list[Tensor]()
        with generator.streaming(_ROWS):
            for step in range(_STEPS):
                tokens = torch.randint(4, 30, (_ROWS, 5, 1), generator=chance).to("cuda")
                if step == 9:
                    generator.set_exec_mask(torch.tensor([True, False, True]))
                generator.step(tokens[:, :2], forced_tokens=tokens[:, 2:])
                assert generator.last_sampled is not None
                chosen.append(generator.last_sampled[::2].cpu())
        outputs.append(chosen)
    same = [(one == other).float().mean() for one, other in zip(*outputs, strict=True)]
    assert float(torch.stack(same).mean()) > 0.97  # the last bits of a product may differ


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_on_a_gpu_a_captured_codec_follows_the_plain_one() -> None:
    model = small_mimi().to("cuda")
    audio = 0.1 * torch.randn(2, 1, 8 * model.frame_size, device="cuda")
    codes = torch.randint(0, 32, (2, 4, 8), device="cuda")
    results: list[list[Tensor]] = []
    for graphs in (True, False):
        model.cuda_graphs = graphs
        with model.streaming(2):
            frames = zip(audio.split(model.frame_size, dim=-1), codes.split(1, dim=-1), strict=True)
            results.append([one for pcm, code in frames for one in (model.encode(pcm), model.decode(code))])
    for one, other in zip(*results, strict=True):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        else:
            assert float((one == other).float().mean()) > 0.97
