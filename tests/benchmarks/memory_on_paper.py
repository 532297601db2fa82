"""What fits on which card, and the least that a step can take there: by counting, without a GPU.

    python tests/benchmarks/memory_on_paper.py

The weights and rows are those of the models as they are built, on tensors without memory. A step reads every
weight of a layer once and the whole cache of every conversation; divided by the card's bandwidth that is the
least it can take. Real steps take longer: `moshi-agent doctor` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moshi_agent.checkpoint.kyutai.config import read_moshi_config
from moshi_agent.checkpoint.models import rounded_layers
from moshi_agent.checkpoint.quantised import ROUNDINGS
from moshi_agent.engine.step.memory import plan_rows
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.embedding import TokenEmbedding

_CONTEXT_GB = 0.5  # that CUDA takes for itself
_BUDGET_MS = 72.0  # of a step, as an engine admits conversations


@dataclass(frozen=True)
class Card:
    name: str
    gigabytes: float
    gb_per_s: float


# Memory and bandwidth as NVIDIA's data sheets have them.
CARDS = (
    Card("RTX 4060 8 GB", 8.6, 272),
    Card("RTX 3060 12 GB", 12.9, 360),
    Card("RTX 4060 Ti 16 GB", 17.2, 288),
    Card("L4 24 GB", 24.1, 300),
    Card("RTX 4090 24 GB", 25.8, 1008),
    Card("L40S 48 GB", 48.3, 864),
    Card("H100 80 GB", 85.5, 3350),
    Card("H200 141 GB", 150.7, 4800),
)


@dataclass(frozen=True)
class Weights:
    name: str
    held_gb: float
    read_gb: float  # in a step


def main() -> None:
    with torch.device("meta"):
        lm, codec = LMModel(read_moshi_config(None)).to(torch.bfloat16), MimiModel()
    codec_gb = sum(one.nbytes for one in codec.parameters()) / 1e9
    tables_gb = sum(one.weight.nbytes for one in lm.modules() if isinstance(one, TokenEmbedding)) / 1e9
    formats: list[Weights] = []
    for rounding in (None, *ROUNDINGS):
        lm_gb = rounded_layers(lm, rounding).num_bytes() / 1e9
        formats.append(Weights(rounding or "bfloat16", lm_gb + codec_gb, lm_gb - tables_gb))
    print("Moshi 7B, int8 caches. Callers: what fits, and what stays within the budget of a step.")
    print("| card | weights | callers that fit | callers in time | least step of one, ms |")
    print("|---|---|--:|--:|--:|")
    for card in CARDS:
        for weights in formats:
            free = card.gigabytes - _CONTEXT_GB - weights.held_gb
            plan = plan_rows(lm, 1, int(free * 1e9), has_kernel=True)
            row_gb = plan.int8_bytes / 1e9
            in_time = int((_BUDGET_MS / 1000 * card.gb_per_s - weights.read_gb) / row_gb)
            fit = plan.most_rows(int8=True)
            one = 1000 * (weights.read_gb + row_gb) / card.gb_per_s
            print(f"| {card.name} | {weights.name} | {fit} | {max(0, min(fit, in_time))} | {one:.0f} |")
    print("\n| weights | GB held | GB read in a step |")
    print("|---|--:|--:|")
    for weights in formats:
        print(f"| {weights.name} | {weights.held_gb:.2f} | {weights.read_gb:.2f} |")


if __name__ == "__main__":
    main()
