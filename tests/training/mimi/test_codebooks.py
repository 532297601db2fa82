"""Codebooks follow their members, by running means and never by gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.config import QuantizerConfig
from moshi_agent.nn.quantizer import SplitQuantizer
from moshi_agent.training.mimi.codebooks import CodebookConfig, CodebookTrainer, settle

BINS = 8
CONFIG = QuantizerConfig(dimension=4, n_q=3, bins=BINS, input_dimension=4, output_dimension=4)


def clusters(count: int, seed: int = 0) -> Tensor:
    """Latents [count, 4] around BINS points."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(BINS, 4, generator=torch.Generator().manual_seed(9)) * 5
    picks = torch.randint(BINS, (count,), generator=generator)
    return points[picks] + 0.01 * torch.randn(count, 4, generator=generator)


def trained(config: CodebookConfig | None = None) -> CodebookTrainer:
    torch.manual_seed(1)
    quantizer = SplitQuantizer(CONFIG)
    trainer = CodebookTrainer(quantizer, config or CodebookConfig(dropout=0.0))
    trainer.initialise(clusters(400), torch.Generator().manual_seed(2))
    return trainer


def test_k_means_finds_the_clusters() -> None:
    """After the start each codebook's error is far below the spread of what it quantizes."""
    quantizer = trained().quantizer
    x = clusters(200, seed=3)[None]
    projected = quantizer.rvq_first.input_proj(x)
    error = projected - quantizer.rvq_first.codebook(0).decode(quantizer.rvq_first.encode(x)[0])
    assert error.square().mean() < 0.2 * projected.var()
    assert float(quantizer.rvq_first.codebook(0).initialized) == 1


def test_codebooks_are_not_part_of_the_graph() -> None:
    """Buffers move though no gradient reaches them, and the latent's gradient passes straight through."""
    trainer = trained()
    before = trainer.quantizer.rvq_first.codebook(0).embedding_sum.clone()
    x = clusters(60, seed=4).view(6, 10, 4).requires_grad_()
    semantic, acoustic, commitment = trainer.quantize(x, 1, torch.Generator().manual_seed(0))
    (semantic.sum() + acoustic.sum() + commitment).backward()
    codebook = trainer.quantizer.rvq_first.codebook(0)
    assert not codebook.embedding_sum.requires_grad and codebook.embedding_sum.grad_fn is None
    assert not torch.equal(codebook.embedding_sum, before)
    assert x.grad is not None and bool((x.grad != 0).any())


def test_quantized_latents_are_what_inference_decodes() -> None:
    """Straight-through values equal the decoded codes."""
    trainer = trained()
    x = clusters(30, seed=5).view(3, 10, 4)
    wanted = trainer.quantizer.decode(trainer.quantizer.encode(x))
    semantic, acoustic, _ = trainer.quantize(x, 1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(semantic + acoustic, wanted, rtol=1e-5, atol=1e-5)


def test_dead_codes_are_replaced() -> None:
    """A code that nothing falls into is given the place of a vector of the batch."""
    trainer = trained(CodebookConfig(dropout=0.0, dead_every=1))
    codebook = trainer.quantizer.rvq_first.codebook(0)
    codebook.embedding_sum[2] = 1000.0
    codebook.cluster_usage[2] = 1e-3
    codebook.refresh()
    x = clusters(50, seed=6).view(5, 10, 4)
    trainer.quantize(x, 1, torch.Generator().manual_seed(0))
    projected = trainer.quantizer.rvq_first.input_proj(x).flatten(0, 1)
    nearest = (projected - codebook.centroids[2]).square().sum(1).min()
    assert nearest < 1e-6


def test_a_row_without_acoustic_codebooks_has_no_acoustic_latent() -> None:
    """With dropout some rows use the semantic codebook alone."""
    trainer = trained(CodebookConfig(dropout=1.0))
    x = clusters(640, seed=7).view(64, 10, 4)
    _, acoustic, _ = trainer.quantize(x, 1, torch.Generator().manual_seed(0))
    silent = (acoustic == 0).flatten(1).all(1)
    assert 0 < int(silent.sum()) < 64


def test_settled_codebooks_keep_their_centroids() -> None:
    """Usage becomes 1, and the codes stay what they are."""
    quantizer = trained().quantizer
    x = clusters(100, seed=8)[None]
    before = quantizer.encode(x)
    settle(quantizer)
    assert bool((quantizer.rvq_rest.codebook(1).cluster_usage == 1).all())
    assert torch.equal(quantizer.encode(x), before)


def test_rows_that_are_not_quantized_pass_by_the_codebooks() -> None:
    """Their latents go to the decoder through projections alone; codebooks learn from them all the same."""
    trainer = trained(CodebookConfig(dropout=0.0, unquantized=1.0))
    before = trainer.quantizer.rvq_first.codebook(0).embedding_sum.clone()
    x = clusters(60, seed=8).view(6, 10, 4)
    semantic, acoustic = trainer.quantize_parts(x, 1, torch.Generator().manual_seed(0))
    for part, quantizer in (
        (semantic, trainer.quantizer.rvq_first),
        (acoustic, trainer.quantizer.rvq_rest),
    ):
        torch.testing.assert_close(part.latent, quantizer.output_proj(quantizer.input_proj(x)))
        assert not torch.allclose(part.quantized, part.latent)
    assert not torch.equal(trainer.quantizer.rvq_first.codebook(0).embedding_sum, before)


def test_about_the_given_share_of_rows_is_not_quantized() -> None:
    trainer = trained(CodebookConfig(dropout=0.0, unquantized=0.5))
    x = clusters(2000, seed=9).view(200, 10, 4)
    semantic, _ = trainer.quantize_parts(x, 1, torch.Generator().manual_seed(0))
    passed = (semantic.latent != semantic.quantized).flatten(1).any(1)
    assert 75 < int(passed.sum()) < 125
