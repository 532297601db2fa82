"""`MimiModel`: streaming, lengths, the window, and what is refused."""

from __future__ import annotations

import pytest
import torch

from moshi_agent.errors import InputError
from moshi_agent.hf import MimiConfig, MimiModel
from tests.engine.calling_device import CallingDevice

AUDIO = 0.1 * torch.randn(2, 1, 5 * 1920, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_stream_gives_the_codes_and_the_sound_of_the_whole(codec: MimiModel) -> None:
    whole = codec.encode(AUDIO).audio_codes
    state, parts = None, []
    for part in AUDIO.split([1920, 2 * 1920, 2 * 1920], dim=-1):
        out = codec.encode(part, encoder_past_key_values=state, use_streaming=True)
        state = out.encoder_past_key_values
        parts.append(out.audio_codes)
    assert torch.equal(torch.cat(parts, dim=-1), whole)
    state = codec.new_cache(batch_size=2)
    sound = [
        codec.decode(part, decoder_past_key_values=state).audio_values for part in whole.split(1, dim=-1)
    ]
    assert torch.allclose(torch.cat(sound, dim=-1), codec.decode(whole).audio_values, atol=1e-5)


@torch.no_grad()
def test_a_stream_with_a_state_of_its_own_is_captured_and_one_that_is_handed_in_is_not(
    codec: MimiModel,
) -> None:
    codec.codec.cuda_graphs = device = CallingDevice()
    frame = AUDIO[..., :1920]
    handed = codec.encode(frame, use_streaming=True).audio_codes
    assert device.captured == 0
    with codec.codec.streaming(2):
        assert torch.equal(codec.codec.encode(frame), handed)
    assert device.captured == 1


@torch.no_grad()
def test_audio_keeps_its_length(codec: MimiModel) -> None:
    audio = AUDIO[..., :-700]
    out = codec(audio)
    assert out.audio_values.shape == audio.shape
    assert out.audio_codes.shape == (2, 8, 5)
    mask = torch.ones(2, audio.shape[-1] - 100)
    assert codec(audio, mask).audio_values.shape[-1] == mask.shape[-1]
    again = codec(audio, audio_codes=out.audio_codes, return_dict=False)
    assert torch.equal(again[1], out.audio_values)


@torch.no_grad()
def test_fewer_codebooks_are_the_first_ones(codec: MimiModel) -> None:
    three = codec.encode(AUDIO, num_quantizers=3).audio_codes
    assert torch.equal(three, codec.encode(AUDIO).audio_codes[:, :3])


@torch.no_grad()
def test_audio_of_another_type_is_taken(codec: MimiModel) -> None:
    codes = codec.encode(AUDIO.double(), return_dict=False)[0]
    assert torch.equal(codes, codec.encode(AUDIO).audio_codes)


@torch.no_grad()
def test_what_lies_behind_the_window_is_not_heard() -> None:
    """One layer sees two frames: after some more, for the convolutions, a change is forgotten."""
    torch.manual_seed(0)
    config = MimiConfig(
        hidden_size=16, num_filters=2, codebook_size=16, codebook_dim=8, upsample_groups=16, num_quantizers=4,
        vector_quantization_hidden_dimension=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, sliding_window=4, layer_scale_initial_scale=1.0,
    )  # fmt: skip
    codec = MimiModel(config)
    for name, buffer in codec.codec.named_buffers():
        if name.endswith("embedding_sum"):
            buffer.normal_()
    audio = torch.cat([AUDIO, AUDIO.flip(-1)], dim=-1)
    other = audio.clone()
    other[..., :1920] = 0
    codes, others = codec.encode(audio).audio_codes, codec.encode(other).audio_codes
    assert not torch.equal(codes[..., :5], others[..., :5])
    assert torch.equal(codes[..., 6:], others[..., 6:])


def test_masks_of_codes_count_frames(codec: MimiModel) -> None:
    mask = torch.zeros(2, 4000, dtype=torch.long)
    mask[0, :1921] = 1
    mask[1, :4000] = 1
    assert codec.get_audio_codes_mask(mask).tolist() == [[True, True, False], [True, True, True]]
    assert codec.get_audio_codes_mask(mask, "left").tolist()[0] == [False, True, True]


def test_gradients_reach_the_decoder(codec: MimiModel) -> None:
    codec.decode(torch.zeros(1, 8, 2, dtype=torch.long)).audio_values.square().sum().backward()
    assert any(one.grad is not None and bool(one.grad.any()) for one in codec.codec.decoder.parameters())


def test_inputs_that_do_not_fit_are_refused(codec: MimiModel) -> None:
    with pytest.raises(InputError, match="num_quantizers=9"):
        codec.encode(AUDIO, num_quantizers=9)
    with pytest.raises(InputError, match="whole frames of 1920"):
        codec.encode(AUDIO[..., :100], use_streaming=True)
    with pytest.raises(InputError, match=r"\[2, 2, 9600\]"):
        codec.encode(AUDIO.expand(-1, 2, -1))
    with pytest.raises(InputError, match="codes from 99"):
        codec.decode(torch.full((1, 8, 2), 99))
