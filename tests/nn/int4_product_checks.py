"""The kernel of `int4_product` held to plain PyTorch: on a GPU, or in the interpreter."""

from __future__ import annotations

import torch

from moshi_agent.nn import int4_product
from moshi_agent.nn.int4_product import quantize_groups
from moshi_agent.nn.int8_product_kernels import choose_splits


def products_are_those_of_pytorch(device: str) -> None:
    """Rows that fill a tile and do not, one split and several, sizes that no block divides."""
    cases = [
        # rows, outputs, inputs, splits
        (1, 96, 256, 1),
        (3, 70, 200, 1),
        (1, 64, 1024, 2),
        (5, 33, 1100, 2),
        (17, 40, 300, 1),
    ]
    for rows, outputs, inputs, splits in cases:
        assert choose_splits(outputs, rows, inputs)[0] == splits
        # The interpreter multiplies the bits of a bfloat16.
        short = torch.float16 if device == "cpu" else torch.bfloat16
        for dtype, tolerance in ((torch.float32, 1e-5), (short, 1e-2)):
            weight, scales = quantize_groups(torch.randn(outputs, inputs, device=device))
            x = torch.randn(2, rows, inputs, device=device).to(dtype)[1]
            got = int4_product.product(x, weight, scales)
            wanted = int4_product.product_reference(x, weight, scales)
            assert got.dtype == dtype
            scale = float(wanted.float().abs().max())
            torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance * scale)


def extremes_are_kept(device: str) -> None:
    """Every step of both halves of a byte; what is no number stays so, in its row alone."""
    weight = torch.zeros(34, 192, device=device)
    weight[1], weight[2, 7], weight[33] = 7, -8, torch.arange(192, device=device) % 16 - 8
    halves, scales = quantize_groups(weight)
    x = torch.randn(2, 192, device=device)
    x[1, 3] = torch.nan
    got = int4_product.product(x, halves, scales)
    torch.testing.assert_close(got[0], x[0] @ weight.T, rtol=1e-5, atol=1e-4)
    assert got[0, 0] == 0 and got[1].isnan().all()


def a_row_has_the_same_bits_whoever_is_beside_it(device: str) -> None:
    """Alone and among many, as far as they share a tile."""
    weight, scales = quantize_groups(torch.randn(40, 1100, device=device))
    x = torch.randn(16, 1100, device=device)
    together = int4_product.product(x, weight, scales)
    for count in (1, 2, 5):
        assert torch.equal(int4_product.product(x[:count], weight, scales), together[:count])


CHECKS = (products_are_those_of_pytorch, extremes_are_kept, a_row_has_the_same_bits_whoever_is_beside_it)

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():
        for check in CHECKS:
            check("cpu")
            print("passed:", check.__name__)
