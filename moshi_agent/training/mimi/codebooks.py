"""Trains the codebooks by running means of their members; gradients never touch them.

The means follow van den Oord et al. 2017 (arXiv:1711.00937, appendix); codes that nothing falls into
are given a new place among the current vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.nn.quantizer import Codebook, ResidualQuantizer, SplitQuantizer
from moshi_agent.training.runs.distributed import sum_over_processes, take_from_first


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Says how codebooks follow the data."""

    decay: float = 0.99  # of the running means, per step
    dead_share: float = 0.05  # a code with less than this share of the average usage is dead
    dead_every: int = 10  # steps between replacements
    k_means_rounds: int = 12
    dropout: float = 0.2  # share of rows that use only some of the acoustic codebooks
    unquantized: float = 0.0  # share of rows whose latents go to the decoder as they are


@dataclass(frozen=True)
class Quantized:
    """Holds a quantized latent, and how far it lay from what was quantized."""

    latent: Tensor  # [B, T, C] for the decoder: of the codebooks that a row uses, or not quantized at all
    quantized: Tensor  # [B, T, C] the same for rows that are quantized, and quantized for the others too
    commitment: Tensor  # scalar
    codes: Tensor  # [B, K, T]


@dataclass(frozen=True)
class RowUse:
    """Says what each row of a batch uses of the codebooks of one kind."""

    used: Tensor  # [B] how many of them
    plain: Tensor  # [B] bool: whether its latents pass by them all; they learn from it all the same

    def where_used(self, index: int, like: Tensor) -> Tensor:
        """Tells which rows use this codebook, [B, 1, 1]."""
        return (self.used > index).view(-1, 1, 1).to(like.device)


class CodebookTrainer:
    """Quantizes with straight-through gradients and moves the codebooks of `quantizer`."""

    def __init__(self, quantizer: SplitQuantizer, config: CodebookConfig) -> None:
        self.quantizer = quantizer
        self.config = config

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """Sets every codebook by k-means over `latents`, [N, C]; N should be several times the bins."""
        for residual_quantizer in (self.quantizer.rvq_first, self.quantizer.rvq_rest):
            residual = residual_quantizer.input_proj(latents)
            for index in range(residual_quantizer.n_q):
                codebook = residual_quantizer.codebook(index)
                _initialise(codebook, residual, self.config.k_means_rounds, generator)
                residual = residual - codebook.decode(codebook.encode(residual))

    def quantize(
        self, latent: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Makes one step of all codebooks.

        Args:
            latent: [B, T, C].

        Returns:
            Its semantic and its acoustic quantization, [B, T, C] each, and the commitment loss, scalar.
        """
        semantic, acoustic = self.quantize_parts(latent, step, generator)
        return semantic.latent, acoustic.latent, semantic.commitment + acoustic.commitment

    def quantize_parts(
        self, latent: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Quantized, Quantized]:
        """Makes one step of all codebooks, semantic and acoustic apart, on latents [B, T, C]."""
        first, rest = self.quantizer.rvq_first, self.quantizer.rvq_rest
        replace = step % self.config.dead_every == 0
        plain = self._unquantized_rows(len(latent), generator)
        every_row = torch.full((len(latent),), first.n_q)
        semantic = self._quantize(first, latent, RowUse(every_row, plain), replace, generator)
        used = self._acoustic_codebooks(len(latent), generator)
        acoustic = self._quantize(rest, latent, RowUse(used, plain), replace, generator)
        return semantic, acoustic

    def _unquantized_rows(self, rows: int, generator: torch.Generator) -> Tensor:
        """Which rows are not quantized, [B] bool."""
        if not self.config.unquantized:
            return torch.zeros(rows, dtype=torch.bool)
        return torch.rand(rows, generator=generator) < self.config.unquantized

    def _acoustic_codebooks(self, rows: int, generator: torch.Generator) -> Tensor:
        """How many acoustic codebooks each row uses, [B]."""
        total = self.quantizer.rvq_rest.n_q
        some = torch.randint(0, total, (rows,), generator=generator)
        dropped = torch.rand(rows, generator=generator) < self.config.dropout
        return torch.where(dropped, some, total)

    def _quantize(
        self,
        residual_quantizer: ResidualQuantizer,
        latent: Tensor,
        rows: RowUse,
        replace: bool,
        generator: torch.Generator,
    ) -> Quantized:
        x = residual_quantizer.input_proj(latent)
        residual, total = x, torch.zeros_like(x)
        commitment = x.new_zeros(())
        codes: list[Tensor] = []
        for index in range(residual_quantizer.n_q):
            codebook = residual_quantizer.codebook(index)
            chosen = codebook.encode(residual.detach())
            centroids = codebook.decode(chosen)
            mask = rows.where_used(index, x)
            commitment = commitment + ((residual - centroids) * mask).square().mean()
            self._follow(codebook, residual.detach(), chosen, replace, generator)
            total = total + torch.where(mask, centroids, 0)
            residual = residual - centroids
            codes.append(chosen)
        straight_through = x + (total - x).detach()
        # A row that uses no codebook of this kind has no share in the latent at all.
        quantized = residual_quantizer.output_proj(straight_through * rows.where_used(0, x))
        output = quantized
        if bool(rows.plain.any()):
            plain = rows.plain.view(-1, 1, 1).to(x.device)
            output = torch.where(plain, residual_quantizer.output_proj(x), quantized)
        return Quantized(output, quantized, commitment, torch.stack(codes, dim=1))

    @torch.no_grad()
    def _follow(
        self, codebook: Codebook, x: Tensor, codes: Tensor, replace: bool, generator: torch.Generator
    ) -> None:
        """Moves the running means towards the members, x [B, T, D] with codes [B, T]."""
        x, codes = x.flatten(0, 1), codes.flatten()
        decay = self.config.decay
        counts = torch.bincount(codes, minlength=len(codebook.cluster_usage)).to(x.dtype)
        sums = torch.zeros_like(codebook.embedding_sum).index_add_(0, codes, x)
        sum_over_processes(counts)
        sum_over_processes(sums)
        codebook.cluster_usage.mul_(decay).add_(counts, alpha=1 - decay)
        codebook.embedding_sum.mul_(decay).add_(sums, alpha=1 - decay)
        if replace:
            self._replace_dead(codebook, x, generator)
        codebook.refresh()

    def _replace_dead(self, codebook: Codebook, x: Tensor, generator: torch.Generator) -> None:
        """Gives unused codes the place of a random current vector, and usage that lets them stay a while."""
        usage = codebook.cluster_usage
        average = usage.mean()
        dead = (usage < self.config.dead_share * average).nonzero()[:, 0]
        if not len(dead):
            return
        picks = torch.randperm(len(x), generator=generator)[: len(dead)].to(x.device)
        dead = dead[: len(picks)]
        fresh = average * 0.3
        usage[dead] = fresh
        codebook.embedding_sum[dead] = x[picks] * fresh
        take_from_first((usage, codebook.embedding_sum))


def _initialise(codebook: Codebook, x: Tensor, rounds: int, generator: torch.Generator) -> None:
    """k-means over x, [N, D]; usage becomes the mean share of a code in a step of the size of x."""
    bins = len(codebook.cluster_usage)
    centroids = _picked(x, bins, generator)
    counts = x.new_ones(bins)
    for _ in range(rounds):
        half_norms = centroids.square().sum(1) / 2
        codes = (half_norms - F.linear(x, centroids)).argmin(1)
        counts = torch.bincount(codes, minlength=bins).to(x.dtype)
        sums = torch.zeros_like(centroids).index_add_(0, codes, x)
        fresh = _picked(x, bins, generator)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], fresh)
    usage = counts.clamp(min=0.5) / counts.clamp(min=0.5).mean()
    codebook.cluster_usage.copy_(usage)
    codebook.embedding_sum.copy_(centroids * usage[:, None])
    codebook.initialized.fill_(1)
    take_from_first((codebook.cluster_usage, codebook.embedding_sum))
    codebook.refresh()


def _picked(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random rows of x, [N, D] -> [count, D]; a row may come twice."""
    return x[torch.randint(len(x), (count,), generator=generator).to(x.device)]


@torch.no_grad()
def settle(quantizer: SplitQuantizer) -> None:
    """Stores each centroid as itself with a usage of 1, as a finished codec is kept."""
    for residual_quantizer in (quantizer.rvq_first, quantizer.rvq_rest):
        for index in range(len(residual_quantizer.codebooks)):
            codebook = residual_quantizer.codebook(index)
            centroids = codebook.centroids.clone()
            codebook.embedding_sum.copy_(centroids)
            codebook.cluster_usage.fill_(1)
            codebook.initialized.fill_(1)
            codebook.refresh()
