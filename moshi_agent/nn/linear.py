"""Linear layers, whose weights may be trained, packed, or stored in eight or four bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.nn import int4_product, int8_product
from moshi_agent.nn.packing import PackFormat, Product, pack_product
from moshi_agent.nn.packing_on_use import PacksOnUse


class Linear(PacksOnUse, nn.Linear):
    """Is an `nn.Linear` that can be packed for the CPU, after which the plain weight is gone."""

    bias: nn.Parameter | None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.product: Product | None = None

    def forward(self, input: Tensor) -> Tensor:  # [*, in] -> [*, out]
        product = self.product or self.copied_product(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias) if product is None else product(input)

    def as_product(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias

    def whole_weight(self) -> Tensor:
        """Returns the weight as it acts, [out, in], for uses of a part of it."""
        return self.weight

    def dense_weight(self) -> Tensor:
        """Copies the weight in float32, [out, in]."""
        return self.weight.detach().to(torch.float32, copy=True)

    def pack(
        self,
        pack_format: PackFormat,
        *,
        input_scale: Tensor | None = None,
        input_shift: Tensor | None = None,
        output_scale: Tensor | None = None,
    ) -> None:
        """Packs the weight, taking in what stands right before and after the layer.

        Args:
            input_scale, input_shift: [in], a scale and a shift applied to the input (a norm's).
            output_scale: [out], a scale applied to the output (a layer scale).
        """
        weight, bias = self.dense_weight(), self.bias
        if input_shift is not None:
            shifted = weight @ input_shift.float()
            bias = shifted if bias is None else bias.float() + shifted
        if input_scale is not None:
            weight *= input_scale.float()
        if output_scale is not None:
            weight *= output_scale.float()[:, None]
            bias = None if bias is None else bias * output_scale.float()
        self.product = pack_product(weight, bias, pack_format)
        self.drop_packed_copy()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)


class JoinedLinears(nn.Module):
    """Computes several layers of one width, without bias, on the same input in one product."""

    def __init__(self, layers: Sequence[Linear], pack_format: PackFormat) -> None:
        """Takes the weights over: the layers no longer have them."""
        super().__init__()
        self.count = len(layers)
        self.product = pack_product(torch.cat([one.dense_weight() for one in layers]), None, pack_format)
        for layer in layers:
            layer.register_parameter("weight", None)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes [*, in] -> [*, out] of each layer."""
        return self.product(x).chunk(self.count, dim=-1)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds a weight [out, in] to int8, and gives the largest magnitude of each row, [out] float32."""
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    steps = weight * (127 / largest.clamp(min=torch.finfo(torch.float32).tiny))[:, None]
    return steps.round().clamp(-127, 127).to(torch.int8), largest


class Int8Linear(Linear):
    """Holds a layer as int8 rows and one float32 scale per output: W = weight * weight_scb / 127."""

    weight_scb: Tensor  # [out] float32, the largest magnitude of each row

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        if bias:
            raise AssertionError("int8 layers have no bias")
        super().__init__(in_features, out_features)
        weight = torch.zeros(out_features, in_features, dtype=torch.int8, device=self.weight.device)
        scale = torch.zeros(out_features, dtype=torch.float32, device=weight.device)
        self.weight, self.weight_scb = _constants((weight, scale))

    @classmethod
    def rounded(cls, weight: Tensor) -> Self:
        """Makes the layer of a float weight, [out, in]."""
        with torch.device("meta"):
            layer = cls(weight.shape[1], weight.shape[0])
        layer.weight, layer.weight_scb = _constants(quantize_rows(weight))
        return layer

    def forward(self, input: Tensor) -> Tensor:  # [*, in] -> [*, out]
        if self.product is not None:
            return self.product(input)
        product = int8_product.product if int8_product.serves(input) else int8_product.expanded_product
        return product(input, self.weight, self.weight_scb)

    def dense_weight(self) -> Tensor:
        return self.weight.float().mul_((self.weight_scb / 127)[:, None])


class Int4Linear(Linear):
    """Holds a layer as numbers of four bits in groups, each group with its scale; see `int4_product`."""

    weight_scales: Tensor  # [groups, out] float16

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        if bias:
            raise AssertionError("int4 layers have no bias")
        super().__init__(in_features, out_features)
        num_bytes, device = int4_product.num_bytes(in_features), self.weight.device
        weight = torch.zeros(out_features, num_bytes, dtype=torch.uint8, device=device)
        groups = 2 * num_bytes // int4_product.GROUP
        scales = torch.zeros(groups, out_features, dtype=torch.float16, device=device)
        self.weight, self.weight_scales = _constants((weight, scales))

    @classmethod
    def rounded(cls, weight: Tensor) -> Self:
        """Makes the layer of a float weight, [out, in]."""
        with torch.device("meta"):
            layer = cls(weight.shape[1], weight.shape[0])
        layer.weight, layer.weight_scales = _constants(int4_product.quantize_groups(weight))
        return layer

    def forward(self, input: Tensor) -> Tensor:  # [*, in] -> [*, out]
        if self.product is not None:
            return self.product(input)
        product = int4_product.product if int4_product.serves(input) else int4_product.expanded_product
        return product(input, self.weight, self.weight_scales)

    def dense_weight(self) -> Tensor:
        return int4_product.dequantize(self.weight, self.weight_scales, self.in_features)


def _constants(tensors: tuple[Tensor, Tensor]) -> tuple[nn.Parameter, nn.Parameter]:
    weight, scales = (nn.Parameter(one, requires_grad=False) for one in tensors)
    return weight, scales


class LoraLinear(Linear):
    """Adds a low-rank update that is kept apart: W + scaling * B @ A."""

    def __init__(
        self, in_features: int, out_features: int, rank: int, scaling: float, bias: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.scaling = scaling
        self.lora_A = Linear(in_features, rank)
        self.lora_B = Linear(rank, out_features)

    def whole_weight(self) -> Tensor:
        return self.weight + self.scaling * (self.lora_B.weight @ self.lora_A.weight)

    def forward(self, input: Tensor) -> Tensor:  # [*, in] -> [*, out]
        if self.product is not None:
            return self.product(input)
        # Scaled where it is narrow.
        return super().forward(input) + self.lora_B(self.scaling * self.lora_A(input))

    def dense_weight(self) -> Tensor:
        a, b = self.lora_A.weight.detach().float(), self.lora_B.weight.detach().float()
        return self.weight.detach().float().addmm(b, a, alpha=self.scaling)

    def pack(
        self,
        pack_format: PackFormat,
        *,
        input_scale: Tensor | None = None,
        input_shift: Tensor | None = None,
        output_scale: Tensor | None = None,
    ) -> None:
        super().pack(pack_format, input_scale=input_scale, input_shift=input_shift, output_scale=output_scale)
        del self.lora_A, self.lora_B
