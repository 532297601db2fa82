"""How large a snapshot is in either form, and how far a conversation departs that goes on from a compact one.

    python tests/benchmarks/compact_snapshots.py

Sizes are counted, those of the 7B model on tensors without memory. The departure is that of `tiny`: sample
questions one after the other, answered with sampling as advised. After so many steps the caches are computed
anew from the tokens of the last steps, and the next steps are taken with either cache on the same path.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from moshi_agent.audio.files import read_audio
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.checkpoint.kyutai.config import read_moshi_config
from moshi_agent.engine.step.memory import row_bytes, temporal_row_bytes
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.models.prefill import MOST_POSITIONS, recall
from moshi_agent.models.token_ring import TokenRing
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.questions import sample_questions

FOLLOWED = 40  # steps that are compared


@dataclass(frozen=True)
class Departure:
    """Of the steps that follow, on the same path."""

    logits: float  # the largest difference of a text logit
    divergence: float  # Kullback-Leibler, in nats, of the text's distribution; the mean
    same: float  # share of steps whose likeliest text is the same


def print_sizes(name: str, lm: LMModel, mimi: MimiModel) -> None:
    """Prints the bytes of a conversation whose cache is full."""
    config = lm.config
    initial = torch.zeros(config.num_streams, dtype=torch.long)
    ring = TokenRing(config.delays, initial, 1 + config.dep_q, config.temporal.context or 0)
    tokens, codec = row_bytes(ring.init_state(1)), row_bytes(mimi.init_state(1))
    cache = temporal_row_bytes(lm, kv_int8=False)
    print(
        f"| {name} | {(cache + tokens + codec) / 1e6:.2f} MB | {(tokens + codec) / 1e6:.2f} MB "
        f"| {codec / 1e6:.2f} MB | {tokens / 1e3:.0f} kB |"
    )


@torch.inference_mode()
def departures(tiny: Checkpoint, ages: list[int], seed: int) -> list[Departure]:
    """Measures one conversation after so many steps."""
    assert tiny.lm is not None
    generator = Generator(tiny.lm, history=tiny.lm.config.temporal.context or 0)
    sampling = RowSampling(1, tiny.lm.device, replace(tiny.advised_sampling, seed=seed))
    user = _heard(tiny, ages[-1] + FOLLOWED, seed)
    state = generator.init_state(1)
    rings: dict[int, list[Tensor]] = {}
    forced: list[Tensor] = []
    logits: list[Tensor] = []
    for step in range(user.shape[2]):
        if step in ages:
            rings[step] = state.ring.save_row(0)
        output = generator.advance(state, StepInput(user=user[:, :, step]), sampling)
        forced.append(output.generated)
        logits.append(output.text_logits[0])
    found: list[Departure] = []
    for age in ages:
        again = _recalled(generator, rings[age])
        steps = range(age, age + FOLLOWED)
        after = [
            generator.advance(again, StepInput(user=user[:, :, step], forced=forced[step]), sampling)
            for step in steps
        ]
        found.append(
            _departure(
                torch.stack([logits[step] for step in steps]),
                torch.stack([output.text_logits[0] for output in after]),
            )
        )
    return found


def _recalled(generator: Generator, ring: list[Tensor]) -> LMGenState:
    state = generator.init_state(1)
    state.ring.load_row(0, ring)
    taken = int(state.ring.offset)
    for first in range(max(0, taken - generator.ring.history), taken, MOST_POSITIONS):
        recall(generator, state, range(first, min(first + MOST_POSITIONS, taken)))
    return state


def _departure(stayed: Tensor, moved: Tensor) -> Departure:
    """[FOLLOWED, text_card] each."""
    wanted, given = stayed.double().log_softmax(-1), moved.double().log_softmax(-1)
    return Departure(
        logits=float((stayed - moved).abs().max()),
        divergence=float((wanted.exp() * (wanted - given)).sum(-1).mean()),
        same=float((stayed.argmax(-1) == moved.argmax(-1)).float().mean()),
    )


def _heard(tiny: Checkpoint, steps: int, seed: int) -> Tensor:
    """The codes of questions with pauses for their answers, [1, K, steps]."""
    assert tiny.lm is not None
    pieces: list[np.ndarray] = []
    for question in itertools.islice(itertools.cycle(sample_questions()), seed, None):
        pieces += [read_audio(question.path), np.zeros(4 * 24_000, np.float32)]
        if sum(map(len, pieces)) >= steps * 1920:
            break
    samples = np.concatenate(pieces)[: steps * 1920].astype(np.float32)
    return tiny.mimi.encode(torch.from_numpy(samples)[None, None])[:, : tiny.lm.config.num_user_codebooks]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=3, help="that are measured")
    calls = parser.parse_args().calls
    tiny = load_checkpoint("tiny", pack="auto")
    assert tiny.lm is not None
    print("| model | with the cache | compact | of it codec | tokens |")
    print("|---|--:|--:|--:|--:|")
    print_sizes("tiny", tiny.lm, tiny.mimi)
    with torch.device("meta"):
        large = LMModel(read_moshi_config(None)).to(torch.bfloat16), MimiModel()
    print_sizes("Moshi 7B", *large)
    context = tiny.lm.config.temporal.context or 0
    ages = [context // 2, context, context + context // 4, 2 * context, 3 * context]
    measured = [departures(tiny, ages, seed) for seed in range(calls)]
    print(f"\ntiny, a context of {context} steps; {calls} calls, {FOLLOWED} steps after the move")
    print(
        "| steps before | largest difference of a text logit | mean divergence, nats | same likeliest text |"
    )
    print("|--:|--:|--:|--:|")
    for age, of_age in zip(ages, zip(*measured, strict=True), strict=True):
        logits = max(one.logits for one in of_age)
        divergence = sum(one.divergence for one in of_age) / calls
        same = 100 * sum(one.same for one in of_age) / calls
        print(f"| {age} | {logits:.1e} | {divergence:.1e} | {same:.1f} % |")


if __name__ == "__main__":
    main()
