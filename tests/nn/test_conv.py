"""Causal convolutions, in chunks and whole, plain and packed."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.nn.conv import CausalConv1d, CausalConvTranspose1d

_SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3)).filter(
    lambda shape: (shape[0] - 1) * shape[2] + 1 >= shape[1]
)


def _in_chunks(conv: CausalConv1d | CausalConvTranspose1d, x: Tensor, sizes: list[int]) -> Tensor:
    state = conv.init_state(len(x), x.device, x.dtype)
    return torch.cat([conv(chunk, state) for chunk in x.split(sizes, dim=1)], dim=1)


@settings(max_examples=40, deadline=None)
@given(
    _SHAPES, st.sampled_from(["constant", "replicate"]), st.lists(st.integers(1, 4), min_size=1, max_size=5)
)
def test_chunks_give_what_the_whole_gives(
    shape: tuple[int, int, int], pad_mode: str, chunks: list[int]
) -> None:
    """However a signal is cut, plain or packed, a convolution gives the same as at once."""
    kernel, stride, dilation = shape
    torch.manual_seed(kernel)
    conv = CausalConv1d(3, 5, kernel, stride, dilation, pad_mode=pad_mode)  # pyright: ignore[reportArgumentType]
    sizes = [stride * chunk for chunk in chunks]
    x = torch.randn(2, sum(sizes), 3)
    with torch.no_grad():
        whole = conv(x)
        packed = copy.deepcopy(conv)
        packed.pack("float32")
        for model in (conv, packed):
            torch.testing.assert_close(_in_chunks(model, x, sizes), whole, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model(x), whole, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans()
)
def test_upsampling_in_chunks_gives_what_torch_gives(
    kernel: int, stride: int, chunks: list[int], depthwise: bool
) -> None:
    """A transposed convolution is torch's, its end trimmed, whole or in chunks, plain or packed."""
    kernel = max(kernel, stride)
    torch.manual_seed(kernel)
    conv = CausalConvTranspose1d(4, 4 if depthwise else 3, kernel, stride, depthwise=depthwise)
    x = torch.randn(2, sum(chunks), 4)
    with torch.no_grad():
        wanted = F.conv_transpose1d(
            x.transpose(1, 2), conv.weight, conv.bias, stride, groups=4 if depthwise else 1
        )[..., : x.shape[1] * stride].transpose(1, 2)
        packed = copy.deepcopy(conv)
        packed.pack("float32")
        for model in (conv, packed):
            torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(_in_chunks(model, x, chunks), wanted, atol=1e-5, rtol=1e-5)


def test_a_masked_row_stays_as_it_was() -> None:
    """A row that does not execute continues later as if the chunk had never come."""
    torch.manual_seed(0)
    conv = CausalConv1d(2, 2, 4, pad_mode="replicate")
    x = torch.randn(2, 9, 2)
    noise = torch.randn(1, 3, 2)
    state = conv.init_state(2, x.device, x.dtype)
    with torch.no_grad():
        first = conv(x[:, :3], state)
        conv(torch.cat([x[:1, 3:6], noise]), state, torch.tensor([True, False]))
        resumed = conv(torch.cat([x[:1, 6:9], x[1:, 3:6]]), state)
        whole = conv(x)
    torch.testing.assert_close(first, whole[:, :3])
    torch.testing.assert_close(resumed[0], whole[0, 6:9])
    torch.testing.assert_close(resumed[1], whole[1, 3:6])
