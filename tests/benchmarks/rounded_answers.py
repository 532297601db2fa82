"""What rounding the weights does to the built-in model's answers.

    python tests/benchmarks/rounded_answers.py

Asks it every sample question by greedy choice, with weights of each type, and counts the answers that are
right, and those that are word for word those of the float32 weights. Then it forces the frames of float32
upon the others: how far apart their text logits are on the same path, as a share of what those spread by, and
in how many frames another text token comes first. "Weights apart" is how far rounding moves the weights, as a
share of their size.

float8 is no type that a checkpoint can be loaded in: it is here to show what it would do in int8's place,
with a scale for each row as int8 has. Takes some minutes of one core; with a number, asks the first so many.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moshi_agent.audio.files import read_audio
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.models.generator import Generator, StepInput, StepOutput
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.linear import Int8Linear, Linear
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.questions import sample_questions

_TAIL_S = 4.0
_TYPES = ("float32", "int8", "float8", "int4")
_LARGEST_FLOAT8 = 448.0
_EXCHANGES = Path(__file__).parents[2] / "moshi_agent" / "assets" / "tiny" / "exchanges.json"


@dataclass(frozen=True)
class Answer:
    text: str
    steps: list[StepOutput]


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else None
    questions = sample_questions()[:count]
    exact, weights = load_checkpoint("tiny"), _weights(load_checkpoint("tiny").conversation_lm())
    codes = [_codes(exact, question.path) for question in questions]
    right = [_right_answers()[question.text] for question in questions]
    wanted: list[Answer] = []
    print(
        "| weights | weights apart | answers right | as float32's | logits apart | frames with another best |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name in _TYPES:
        checkpoint = _rounded(name)
        moved = _distance(_weights(checkpoint.conversation_lm()), weights)
        checkpoint.conversation_lm().pack("float32")  # the same weights, of which products are faster
        answers = [_answer(checkpoint, given) for given in codes]
        wanted = wanted or answers
        is_right = sum(one.text == text for one, text in zip(answers, right, strict=True))
        is_same = sum(one.text == other.text for one, other in zip(answers, wanted, strict=True))
        apart, others = _on_the_same_path(checkpoint, codes, wanted)
        of = len(questions)
        told = f"{moved:.2%} | {is_right} of {of} | {is_same} of {of} | {apart:.1%} | {others:.2%}"
        print(f"| {name} | {told} |", flush=True)


def _right_answers() -> dict[str, str]:
    """By the question."""
    exchanges = json.loads(_EXCHANGES.read_text(encoding="utf-8"))
    return {one["question"]: one["answer"] for one in exchanges}


def _rounded(name: str) -> Checkpoint:
    if name != "float8":
        return load_checkpoint("tiny", dtype=name)
    checkpoint = load_checkpoint("tiny", dtype="float32")
    layers = dict(checkpoint.conversation_lm().named_modules())
    for layer_name, layer in load_checkpoint("tiny", dtype="int8").conversation_lm().named_modules():
        if isinstance(layer, Int8Linear):
            weight = layers[layer_name].get_parameter("weight")
            scales = layer.weight_scb[:, None] / _LARGEST_FLOAT8
            weight.data = (weight / scales).to(torch.float8_e4m3fn).float() * scales
    return checkpoint


def _weights(lm: LMModel) -> dict[str, Tensor]:
    """Of every layer, in float32."""
    return {name: one.dense_weight() for name, one in lm.named_modules() if isinstance(one, Linear)}


def _distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    def squares(of: Callable[[str], Tensor]) -> float:
        return sum(float(of(name).square().sum()) for name in others)

    return (squares(lambda name: weights[name] - others[name]) / squares(lambda name: others[name])) ** 0.5


@torch.inference_mode()
def _codes(checkpoint: Checkpoint, path: object) -> Tensor:
    """The question and the silence in which it is answered, [1, K, frames]."""
    samples = np.concatenate([read_audio(str(path)), np.zeros(int(_TAIL_S * 24_000), np.float32)])
    whole = samples[: len(samples) // 1920 * 1920]
    codes = checkpoint.mimi.encode(torch.from_numpy(whole)[None, None])
    return codes[:, : checkpoint.conversation_lm().config.num_user_codebooks]


@torch.inference_mode()
def _answer(checkpoint: Checkpoint, codes: Tensor, forced: list[StepOutput] | None = None) -> Answer:
    assert checkpoint.tokenizer is not None
    generator = Generator(checkpoint.conversation_lm())
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
