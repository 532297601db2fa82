"""Whether a row's output has the same bits whoever shares the batch: checked where the model is loaded.

Packed float32 products have shown to be so on every processor that was tried, but nothing promises it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from moshi_agent.nn.native.products import NativeProduct
from moshi_agent.nn.packing import Float32Product


def rows_are_invariant(models: Iterable[nn.Module], rows: int) -> bool:
    """Tells whether every packed float32 product gives one row the same bits alone and among up to `rows`.

    True as well for models that promise nothing: not packed, or packed in fewer bits.
    """
    products = {
        (product.in_features, product.out_features): product
        for model in models
        for module in model.modules()
        if isinstance(product := getattr(module, "product", None), Float32Product | NativeProduct)
    }
    return all(_is_invariant(product, rows) for product in products.values())


@torch.inference_mode()
def _is_invariant(product: Float32Product | NativeProduct, rows: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, product.in_features, dtype=torch.float32, generator=generator)
    whole = product(x)
    return all(torch.equal(product(x[:count]), whole[:count]) for count in {1, 2, 3, rows // 2} if count)
