"""The built-in model with an int8 cache says what it says with a float one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from moshi_agent.audio.files import read_audio
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.models.generator import Generator, StepInput, StepOutput
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.questions import find_question, sample_questions

_ANSWER = "My name is Moshi, and I am a tiny talking model."


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint("tiny", pack="auto")


@torch.inference_mode()
def _codes(tiny: Checkpoint) -> Tensor:
    """The question and the silence in which it is answered, [1, K, frames]."""
    question = read_audio(find_question("what is your name", sample_questions()).path)
    samples = np.concatenate([question, np.zeros(4 * 24_000, np.float32)])
    whole = samples[: len(samples) // 1920 * 1920]
    assert tiny.lm is not None
    return tiny.mimi.encode(torch.from_numpy(whole)[None, None])[:, : tiny.lm.config.num_user_codebooks]


@torch.inference_mode()
def _steps(
    tiny: Checkpoint, codes: Tensor, kv_int8: bool, forced: list[Tensor] | None
) -> Iterator[StepOutput]:
    assert tiny.lm is not None
    generator = Generator(tiny.lm)
    state = generator.init_state(1, kv_int8)
    greedy = RowSampling(1, torch.device("cpu"), SamplingConfig(greedy=True))
    for frame in range(codes.shape[2]):
        tokens = None if forced is None else forced[frame]
        yield generator.advance(state, StepInput(user=codes[:, :, frame], forced=tokens), greedy)


def _text(tiny: Checkpoint, steps: list[StepOutput]) -> str:
    assert tiny.tokenizer is not None
    return tiny.tokenizer.decode([token for step in steps if (token := int(step.generated[0, 0])) > 3])


def test_an_int8_cache_changes_no_word_of_an_answer(tiny: Checkpoint) -> None:
    """Greedy; and on the same path hidden states within 1 %, text logits by a twentieth of their spread."""
    codes = _codes(tiny)
    exact = list(_steps(tiny, codes, kv_int8=False, forced=None))
    assert _text(tiny, exact) == _ANSWER
    free = list(_steps(tiny, codes, kv_int8=True, forced=None))
    assert _text(tiny, free) == _ANSWER
    spread = torch.cat([step.text_logits for step in exact]).std()
    followed = _steps(tiny, codes, kv_int8=True, forced=[step.generated for step in exact])
    for wanted, got in zip(exact, followed, strict=True):
        assert (got.hidden - wanted.hidden).norm() < 0.01 * wanted.hidden.norm()
        assert (got.text_logits - wanted.text_logits).abs().max() < spread / 20
        assert torch.equal(got.sampled, wanted.generated)
