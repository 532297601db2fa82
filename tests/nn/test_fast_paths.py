"""Kernels beside the operators that they stand for, on the device where they are to serve."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor

from moshi_agent.config import TransformerConfig
from moshi_agent.nn import cache_attention, fast_path_switch, fast_paths, fused, int4_product, int8_product
from moshi_agent.nn.fast_path_switch import FastPathName
from moshi_agent.nn.fast_paths import FastPath, compare
from tests.small_models import small_lm_config

_CPU = torch.device("cpu")
_CONFIG = replace(small_lm_config().temporal, dim=64)  # heads of 32, which the kernel takes
_NAMES: tuple[FastPathName, ...] = ("fused", "attention", "int8 product", "int4 product")


@pytest.fixture(autouse=True)
def all_on() -> Generator[None]:
    yield
    fast_path_switch.switch_all_on()


def _path(fast: Tensor | Exception) -> FastPath:
    def compute() -> Tensor:
        if isinstance(fast, Exception):
            raise fast
        return fast

    plain = torch.tensor([1.0, -4.0])
    return FastPath(name="fused", what="sums", fast=compute, plain=lambda: plain, tolerance=0.01)


def test_a_difference_is_a_share_of_the_largest_number() -> None:
    close = compare(_path(torch.tensor([1.02, -4.0])), repeats=2)
    assert close.agrees and close.difference == pytest.approx(0.005)
    assert close.fast_ms is not None and close.plain_ms is not None
    assert not compare(_path(torch.tensor([1.0, -4.1]))).agrees
    assert not compare(_path(torch.tensor([1.0, torch.nan]))).agrees


def test_a_kernel_that_fails_does_not_agree() -> None:
    failed = compare(_path(RuntimeError("ptxas died\nwith much to say")))
    assert not failed.agrees and failed.told == "failed: RuntimeError: ptxas died"


@pytest.mark.parametrize("ill", _NAMES)
def test_what_disagrees_is_switched_off_and_said(ill: FastPathName, caplog: pytest.LogCaptureFixture) -> None:
    """With operators in the place of the kernels, one of which gives other numbers."""
    factor = {name: 1.5 if name == ill else 1.0 for name in _NAMES}
    product, attend = int8_product.product_reference, cache_attention.attend_reference
    short_product = int4_product.product_reference
    with (
        mock.patch.object(fused, "has_triton", lambda: True),
        mock.patch.object(torch.cuda, "get_device_name", lambda device: "a card"),
        mock.patch.object(fused, "silu_times", lambda x: factor["fused"] * _silu_times(x)),
        mock.patch.object(fused, "add_and_norm", lambda x, change, scale, eps: (x, _norm(x + change, scale))),
        mock.patch.object(fused, "noise", _noise),
        mock.patch.object(cache_attention, "attend", lambda *given: factor["attention"] * attend(*given)),
        mock.patch.object(int8_product, "product", lambda *given: factor["int8 product"] * product(*given)),
        mock.patch.object(
            int4_product, "product", lambda *given: factor["int4 product"] * short_product(*given)
        ),
        mock.patch.object(fast_paths, "fast_paths", _on_this_machine),
    ):
        refused = fast_paths.check_fast_paths(_CONFIG, torch.device("cuda"), torch.float32)
    assert {one.name for one in refused} == {ill}
    assert [fast_path_switch.is_on(name) for name in _NAMES] == [name != ill for name in _NAMES]
    assert "is switched off, and steps are slower: on a card it differs by 0.5" in caplog.text


_fast_paths = fast_paths.fast_paths


def _on_this_machine(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype
) -> Iterator[FastPath]:
    return _fast_paths(config, _CPU, dtype)


def _silu_times(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * value


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), scale, 1e-8)


def _noise(key: Tensor, first: int, count: int, kept: Tensor, candidates: int) -> Tensor:
    return fast_paths.noise_reference(key, range(first, first + count), kept, candidates)


def test_what_is_switched_off_serves_no_more() -> None:
    x = mock.Mock(is_cuda=True, shape=(1, 8), numel=lambda: 8)
    with mock.patch.object(fused, "has_triton", lambda: True), torch.inference_mode():
        for count, name in enumerate(_NAMES):
            serving = (
                fused.serves(x),
                cache_attention.serves(_CONFIG, torch.device("cuda")),
                int8_product.serves(x),
                int4_product.serves(x),
            )
            assert serving == tuple(number >= count for number in range(len(_NAMES)))
            fast_path_switch.switch_off(name)


def test_without_cuda_there_is_nothing_to_check() -> None:
    assert fast_paths.check_fast_paths(_CONFIG, _CPU, torch.float32) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_kernel_agrees_on_this_device(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    for path in fast_paths.fast_paths(_CONFIG, torch.device("cuda"), dtype):
        result = compare(path, repeats=5)
        assert result.agrees, f"{result.what}: {result.told}"
