"""The step in C beside the same step of PyTorch's operators."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import pytest
import torch

from moshi_agent.config import (
    DepthConfig,
    MimiConfig,
    MoshiConfig,
    QuantizerConfig,
    SamplingConfig,
    SEANetConfig,
    TransformerConfig,
)
from moshi_agent.models.generator import Generator as TokenGenerator
from moshi_agent.models.generator import StepInput
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.fast_path_switch import switch_all_on, switch_off
from moshi_agent.nn.native.library import load_library
from moshi_agent.nn.native.products import NativeProduct
from moshi_agent.nn.packing import PACK_FORMATS, PackFormat, pack_product
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.nn.transformer import Transformer

pytestmark = pytest.mark.skipif(load_library("float32") is None, reason="there is no C compiler")

Model = TypeVar("Model", Transformer, LMModel, MimiModel)
ROWS, STEPS = 5, 30
TEMPORAL = TransformerConfig(
    dim=48,
    num_heads=2,
    num_layers=2,
    dim_feedforward=192,
    norm="rms_norm_f32",
    gating="silu",
    positional_embedding="rope",
    context=9,
)
MIMI_TRANSFORMER = TransformerConfig(
    dim=40,
    num_heads=2,
    num_layers=1,
    dim_feedforward=72,
    positional_embedding="rope",
    layer_scale=0.3,
    context=7,
)


@contextmanager
def _without_c() -> Generator[None]:
    switch_off("native step")
    try:
        yield
    finally:
        switch_all_on()


def _both(make: Callable[[], Model], pack: PackFormat = "float32") -> tuple[Model, Model]:
    """The same weights packed for the C, and for PyTorch's operators."""
    torch.manual_seed(0)
    first, second = make(), make()
    for parameter in first.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # norms and scales, too
    second.load_state_dict(first.state_dict())
    first.pack(pack)
    with _without_c():
        second.pack(pack)
    return first, second


def _masks(steps: int) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    masks: list[torch.Tensor | None] = [torch.rand(ROWS, generator=generator) > 0.3 for _ in range(steps)]
    masks[0] = masks[5] = None
    return masks


@pytest.mark.parametrize("pack", PACK_FORMATS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 36), (12, 7), (33, 70), (64, 16), (200, 100)])
def test_a_product_is_right_and_a_row_has_the_same_bits_alone(
    pack: PackFormat, outputs: int, inputs: int
) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(40, inputs)
    product = pack_product(weight, bias, pack)
    assert isinstance(product, NativeProduct)
    wanted = x @ weight.t() + bias
    error = (product(x) - wanted).abs().max() / wanted.abs().max()
    assert error < (1e-6 if pack == "float32" else 1e-2)
    for first, last in pairwise((0, 1, 3, 4, 9, 15, 21, 33, 40)):
        assert torch.equal(product(x[first:last]), product(x)[first:last])


@pytest.mark.parametrize(
    "config",
    [
        TEMPORAL,
        replace(TEMPORAL, kv_repeat=2, norm="layer_norm"),
        replace(TEMPORAL, positional_embedding="rope_concat"),
        replace(TEMPORAL, positional_embedding="none"),
        MIMI_TRANSFORMER,
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 3])
@torch.inference_mode()
def test_transformers_agree_over_turns_of_the_ring_with_rows_that_wait(
    config: TransformerConfig, steps: int
) -> None:
    native, plain = _both(lambda: Transformer(config))
    assert native.native is not None and plain.native is None
    states = [one.init_state(ROWS, torch.device("cpu"), torch.float32) for one in (native, plain)]
    for mask in _masks(STEPS):
        x = torch.randn(ROWS, steps, config.dim)
        got, wanted = native(x, states[0], mask), plain(x, states[1], mask)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        assert torch.equal(states[0].offset, states[1].offset)


@pytest.mark.parametrize("dilated", [False, True])
@torch.inference_mode()
def test_codecs_agree_with_rows_that_wait(dilated: bool) -> None:
    seanet = SEANetConfig(
        dimension=40, n_filters=6, n_residual_layers=2 if dilated else 1, ratios=(8, 6, 5, 4)
    )
    quantizer = QuantizerConfig(dimension=16, n_q=4, bins=50, input_dimension=40, output_dimension=40)

    def make() -> MimiModel:
        mimi = MimiModel(MimiConfig(seanet=seanet, transformer=MIMI_TRANSFORMER, quantizer=quantizer))
        for part in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
            for index in range(part.n_q):
                part.codebook(index).embedding_sum.normal_()
        return mimi

    native, plain = _both(make)
    states = [native.init_state(ROWS), plain.init_state(ROWS)]
    for mask in _masks(12):
        pcm = 0.3 * torch.randn(ROWS, 1, native.frame_size)
        got, wanted = native.encode_latent(pcm, states[0], mask), plain.encode_latent(pcm, states[1], mask)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        codes = plain.quantizer.encode(wanted)
        assert torch.equal(native.quantizer.encode(wanted), codes)
        torch.testing.assert_close(
            native.decode_codes(codes, states[0], mask),
            plain.decode_codes(codes, states[1], mask),
            rtol=1e-4,
            atol=1e-4,
        )
    for here, there in zip(states[0].tensors(), states[1].tensors(), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


DEPTH = TransformerConfig(
    dim=24,
    num_heads=2,
    num_layers=2,
    dim_feedforward=64,
    norm="rms_norm_f32",
    gating="silu",
    positional_embedding="none",
    weights_per_step=4,
)
LM = MoshiConfig(
    temporal=TEMPORAL,
    depth=DepthConfig(transformer=DEPTH, multi_linear=True),
    delays=(0, 0, 1, 1, 1, 0, 1, 1, 1),
    n_q=8,
    dep_q=4,
    card=60,
    text_card=30,
)


@pytest.mark.parametrize(
    "config",
    [
        LM,
        replace(
            LM,
            depth=DepthConfig(
                transformer=replace(DEPTH, weights_per_step_schedule=(0, 1, 1, 0)), multi_linear=True
            ),
        ),
    ],
)
@torch.inference_mode()
def test_the_same_tokens_are_drawn_and_forced(config: MoshiConfig) -> None:
    native, plain = _both(lambda: LMModel(config))
    assert native.native_depth is not None and plain.native_depth is None
    sampling = RowSampling(ROWS, torch.device("cpu"), SamplingConfig(greedy=True))
    for row, one in enumerate(
        (
            SamplingConfig(temp=0.9, top_k=20, seed=1),
            SamplingConfig(temp=0.0),
            SamplingConfig(temp=1.2, top_k=0, top_p=0.8, seed=2),
            SamplingConfig(greedy=True),
        )
    ):
        sampling.set_row(row, one)
    generators = TokenGenerator(native), TokenGenerator(plain)
    states = [one.init_state(ROWS) for one in generators]
    for mask in _masks(STEPS):
        forced = torch.randint(0, 20, (ROWS, 5))
        forced[torch.rand(ROWS, 5) < 0.8] = -2
        given = StepInput(user=torch.randint(0, 60, (ROWS, 4)), exec_mask=mask, forced=forced)
        got, wanted = (
            one.advance(state, given, sampling) for one, state in zip(generators, states, strict=True)
        )
        assert torch.equal(got.sampled, wanted.sampled)
        assert torch.equal(got.generated, wanted.generated)


@torch.inference_mode()
def test_a_row_that_is_no_number_stays_none_and_harms_no_other() -> None:
    native, _ = _both(lambda: Transformer(TEMPORAL))
    x = torch.randn(3, 1, TEMPORAL.dim)
    broken = x.clone()
    broken[1, 0, 5] = torch.nan
    where = (3, torch.device("cpu"), torch.float32)
    got, wanted = native(broken, native.init_state(*where)), native(x, native.init_state(*where))
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], wanted[[0, 2]])


@pytest.mark.slow
def test_without_a_compiler_the_answer_is_made_of_pytorch_s_operators(tmp_path: os.PathLike[str]) -> None:
    code = (
        "from moshi_agent.checkpoint import load_checkpoint\n"
        "lm = load_checkpoint('tiny', pack='float32').lm\n"
        "assert lm.native_depth is None, 'compiled without a compiler'\n"
    )
    alone = {
        "PATH": "/nowhere",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=alone, timeout=600)
