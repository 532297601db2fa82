"""Packed products: right, and a row's own whatever other rows there are."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from moshi_agent.nn import packing
from moshi_agent.nn.fast_path_switch import switch_all_on, switch_off
from moshi_agent.nn.native import products as native_products
from moshi_agent.nn.packing import PlainProduct, pack_product
from tests.small_models import small_lm, small_mimi

SMALL, LARGE, FEW_OUTPUTS = (96, 170), (600, 500), (6, 36)  # [out, in], as they are packed differently


@pytest.mark.parametrize("shape", [SMALL, LARGE, FEW_OUTPUTS])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_packed_product_is_the_product(shape: tuple[int, int], with_bias: bool) -> None:
    """Of inputs of any rank, contiguous or windows that overlap in memory."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    bias = torch.randn(shape[0], generator=generator) if with_bias else None
    product = pack_product(weight, bias, "float32")
    signal = torch.randn(3, 4 * shape[1], generator=generator)
    windows = signal.as_strided((3, 5, shape[1]), (4 * shape[1], 7, 1))
    for x in (signal[0, : shape[1]][None], windows, windows[:, None], windows[:1, :1]):
        wanted = torch.nn.functional.linear(
            x.double(), weight.double(), None if bias is None else bias.double()
        )
        torch.testing.assert_close(product(x).double(), wanted, rtol=1e-5, atol=1e-4)
        assert product(x).shape == wanted.shape


@pytest.mark.parametrize("shape", [SMALL, LARGE, FEW_OUTPUTS])
def test_a_row_has_the_same_bits_in_any_company(shape: tuple[int, int]) -> None:
    """Alone, in a pair, and in batches that the check at packing has not tried."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator)
    product = pack_product(weight, torch.randn(shape[0], generator=generator), "float32")
    x = torch.randn(210, shape[1], generator=generator)
    whole = product(x)
    for rows in (1, 2, 3, 7, 19, 40, 77, 150, 209):
        assert torch.equal(product(x[:rows]), whole[:rows])
        assert torch.equal(product(x[-rows:]), whole[-rows:])


@pytest.mark.parametrize("shape", [SMALL, (1500, 1500)])  # the latter has more elements than the C takes else
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_bfloat16_is_the_product_on_any_processor(
    shape: tuple[int, int], compiled: bool, onednn: bool
) -> None:
    """With or without AVX-512, with or without a compiler."""
    onednn = onednn and native_products.onednn_multiplies_bfloat16()  # what is not there cannot be tried
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)
    x = torch.randn(9, shape[1], generator=generator)
    try:
        if not compiled:
            switch_off("native step")
        with (
            mock.patch.object(native_products, "onednn_multiplies_bfloat16", lambda: onednn),
            mock.patch.object(packing, "onednn_multiplies_bfloat16", lambda: onednn),
        ):
            product = pack_product(weight, bias, "bfloat16")
    finally:
        switch_all_on()
    wanted = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert (product(x).double() - wanted).abs().max() < 1e-2 * wanted.abs().max()


def test_on_a_gpu_a_packed_codec_is_the_codec() -> None:
    """With PyTorch's own products: frame by frame, rows out of step, the same codes and samples."""
    plain, packed = small_mimi(), small_mimi()
    audio, generator = 0.1 * torch.randn(3, 1, 6 * plain.frame_size), torch.Generator().manual_seed(0)
    with mock.patch.object(torch.Tensor, "is_cuda", True), torch.inference_mode():
        packed.pack("float32")
        products = [module.product for module in packed.modules() if getattr(module, "product", None)]
        assert products and all(isinstance(product, PlainProduct) for product in products)
        states = plain.init_state(3), packed.init_state(3)
        for frame in audio.split(plain.frame_size, dim=-1):
            mask = torch.rand(3, generator=generator) < 0.7
            wanted, got = (
                model.encode_latent(frame, state, mask)
                for model, state in zip((plain, packed), states, strict=True)
            )
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
            codes = plain.quantizer.encode(wanted)
            assert torch.equal(packed.quantizer.encode(wanted), codes)
            wanted, got = (
                model.decode_codes(codes, state, mask)
                for model, state in zip((plain, packed), states, strict=True)
            )
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_joined_embeddings_are_the_sum_of_all() -> None:
    """In the model's own type, with tokens that are none among them."""
    plain, joined = small_lm(), small_lm()
    joined.load_state_dict(plain.state_dict())
    joined.pack_embeddings(torch.float32)
    tokens = torch.randint(-1, 30, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    wanted = plain.embed(tokens)
    torch.testing.assert_close(joined.embed(tokens), wanted)
    halved = small_lm()
    halved.load_state_dict(plain.state_dict())
    halved.bfloat16().pack_embeddings(torch.bfloat16)
    got = halved.embed(tokens)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, atol=2e-2, rtol=2e-2)
