"""The kernels of `int8_product` held to plain PyTorch: on a GPU, or in the interpreter."""

from __future__ import annotations

import torch

from moshi_agent.nn import int8_product
from moshi_agent.nn import int8_product_kernels as kernels
from moshi_agent.nn.linear import quantize_rows


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
        assert kernels.choose_splits(outputs, rows, inputs)[0] == splits
        # The interpreter multiplies the bits of a bfloat16.
        short = torch.float16 if device == "cpu" else torch.bfloat16
        for dtype, tolerance in ((torch.float32, 1e-5), (short, 1e-2)):
            weight, largest = quantize_rows(torch.randn(outputs, inputs, device=device))
            x = torch.randn(2, rows, inputs, device=device).to(dtype)[1]
            got = int8_product.product(x, weight, largest)
            wanted = int8_product.product_reference(x, weight, largest)
            assert got.dtype == dtype
            scale = float(wanted.float().abs().max())
            torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance * scale)


def extremes_are_kept(device: str) -> None:
    """Rows of zeros, of one number, and of the largest; what is no number stays so, in its row alone."""
    weight = torch.zeros(34, 130, dtype=torch.int8, device=device)
    weight[1], weight[2, 7], weight[33] = 127, -127, -127
    largest = torch.rand(34, device=device)
    x = torch.randn(2, 130, device=device)
    x[1, 3] = torch.nan
    got = int8_product.product(x, weight, largest)
    wanted = int8_product.product_reference(x, weight, largest)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-5)
    assert got[0, 0] == 0 and got[1].isnan().all()


CHECKS = (products_are_those_of_pytorch, extremes_are_kept)

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():
        for check in CHECKS:
            check("cpu")
            print("passed:", check.__name__)
