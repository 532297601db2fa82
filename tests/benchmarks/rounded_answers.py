"""What rounding the weights does to the built-in model's answers.

    python tests/benchmarks/rounded_answers.py

Asks it every sample question by greedy choice, with weights of each type, and counts the answers that are
word for word those of the float32 weights. Then it forces the frames of float32 upon the others: how far
apart their text logits are on the same path, as a share of what those spread by, and in how many frames
another text token comes first. Takes half an hour of one core.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moshi_agent.audio.files import read_audio
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.models.generator import Generator, StepInput, StepOutput
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.questions import sample_questions

_TAIL_S = 4.0
_TYPES = ("float32", "int8", "int4")


@dataclass(frozen=True)
class Answer:
    text: str
    steps: list[StepOutput]


def main() -> None:
    torch.set_num_threads(1)
    checkpoints = {name: load_checkpoint("tiny", dtype=name) for name in _TYPES}
    codes = [_codes(checkpoints["float32"], question.path) for question in sample_questions()]
    wanted = [_answer(checkpoints["float32"], one) for one in codes]
    print("| weights | answers word for word | logits apart | frames with another best token |")
    print("|---|--:|--:|--:|")
    for name, checkpoint in itertools.islice(checkpoints.items(), 1, None):
        same = sum(
            _answer(checkpoint, given).text == one.text for given, one in zip(codes, wanted, strict=True)
        )
        apart, others = _on_the_same_path(checkpoint, codes, wanted)
        print(f"| {name} | {same} of {len(codes)} | {apart:.1%} | {others:.2%} |", flush=True)


@torch.inference_mode()
def _codes(checkpoint: Checkpoint, path: object) -> Tensor:
    """The question and the silence in which it is answered, [1, K, frames]."""
    samples = np.concatenate([read_audio(str(path)), np.zeros(int(_TAIL_S * 24_000), np.float32)])
    whole = samples[: len(samples) // 1920 * 1920]
    assert checkpoint.lm is not None
    codes = checkpoint.mimi.encode(torch.from_numpy(whole)[None, None])
    return codes[:, : checkpoint.lm.config.num_user_codebooks]


@torch.inference_mode()
def _answer(checkpoint: Checkpoint, codes: Tensor, forced: list[StepOutput] | None = None) -> Answer:
    assert checkpoint.lm is not None and checkpoint.tokenizer is not None
    generator = Generator(checkpoint.lm)
    state = generator.init_state(1)
    generator.begin(state)
    greedy = RowSampling(1, torch.device("cpu"), SamplingConfig(greedy=True))
    steps = [
        generator.advance(
            state,
            StepInput(user=codes[:, :, frame], forced=None if forced is None else forced[frame].generated),
            greedy,
        )
        for frame in range(codes.shape[2])
    ]
    text = checkpoint.tokenizer.decode([token for step in steps if (token := int(step.generated[0, 0])) > 3])
    return Answer(text, steps)


def _on_the_same_path(
    checkpoint: Checkpoint, codes: list[Tensor], wanted: list[Answer]
) -> tuple[float, float]:
    """How far the logits are apart, and the share of frames in which another token comes first."""
    apart: list[float] = []
    others: list[float] = []
    for given, answer in zip(codes, wanted, strict=True):
        followed = _answer(checkpoint, given, answer.steps).steps
        got, exact = (torch.cat([one.text_logits for one in steps]) for steps in (followed, answer.steps))
        apart.append(float((got - exact).norm() / (exact - exact.mean(-1, keepdim=True)).norm()))
        others.append(float((got.argmax(-1) != exact.argmax(-1)).float().mean()))
    return float(np.mean(apart)), float(np.mean(others))


if __name__ == "__main__":
    main()
