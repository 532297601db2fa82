"""PersonaPlex against NVIDIA's own package: what comes after its hybrid prompts.

Theirs differs in two ways, for which these tests account. It gives a frame one step later: what it answers in
a step is what we answered in the step before. And its ring cache hides the oldest of its positions, so that a
context of 16 is one of 15 here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moshi_agent.checkpoint.voices import VoiceFile
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.prompt.persona import PersonaFrames, Still
from moshi_agent.models import loaders
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.models.lm import LMModel
from moshi_agent.models.prefill import prefill
from moshi_agent.nn.sampling import RowSampling

CASES = ["recording", "voice_file", "role_alone"]
GREEDY = SamplingConfig(greedy=True)


@pytest.fixture(params=["plain", "packed"])
def lm(golden, request: pytest.FixtureRequest) -> LMModel:
    """The 16 depth steps of the file read as 8."""
    case = golden("lm/personaplex")
    config = case.json() | {"dep_q": 8, "context": case.json()["context"] - 1}
    lm = loaders.get_moshi_lm(case.weights, config, device="cpu", dtype=torch.float32)
    if request.param == "packed":
        lm.pack("float32")
    return lm


@pytest.fixture
def recorded(golden) -> Callable[[str], dict[str, Tensor]]:
    whole = golden("lm/personaplex").tensors("personas")

    def of(case: str) -> dict[str, Tensor]:
        theirs = {key.partition(".")[2]: value for key, value in whole.items() if key.startswith(f"{case}.")}
        return theirs | {key: whole[key] for key in ("silence", "sine")}

    return of


def prompt_of(lm: LMModel, theirs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Tokens [steps, streams] and embeddings of the prompt that theirs was given."""
    voice: Any = None
    if "codes" in theirs:
        voice = theirs["codes"].T.numpy()
    elif "embeddings" in theirs:
        voice = VoiceFile(theirs["embeddings"].flatten(1), theirs["cache"][0])
    still = Still(theirs["silence"].numpy(), theirs["sine"].numpy())
    prompt = PersonaFrames(lm.config, still).prompt(voice, theirs["text"].tolist())
    embeddings = None if prompt.embeddings is None else torch.from_numpy(prompt.embeddings)
    return torch.from_numpy(prompt.tokens), embeddings


def step(generator: Generator, state: LMGenState, forced: Tensor | None, user: Tensor) -> Tensor:
    """One greedy step; [text_card_out] its text's logits."""
    given = StepInput(user=user[None], forced=None if forced is None else forced[None])
    output = generator.advance(state, given, RowSampling(1, torch.device("cpu"), GREEDY))
    return output.text_logits[0]


def said(generator: Generator, state: LMGenState) -> Tensor:
    """[1 + dep_q] of the newest frame."""
    frame = generator.ring.newest_frame(state.ring, None)
    assert frame is not None
    return frame[0, :, 0]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_after_its_prompt_it_says_what_theirs_says(lm: LMModel, recorded, assert_close, case: str) -> None:
    theirs, generator = recorded(case), Generator(lm)
    tokens, embeddings = prompt_of(lm, theirs)
    state = generator.init_state(1)
    prefill(generator, state, tokens[:-1], embeddings)
    # The last step of the prompt chooses text and first code: theirs chooses them in its first step after it.
    logits = [step(generator, state, tokens[-1, :9], tokens[-1, 9:])]
    ours = [said(generator, state)]
    for user in theirs["user"]:
        logits.append(step(generator, state, None, user))
        ours.append(said(generator, state))
    assert torch.equal(torch.stack(ours[:-1]), theirs["out"][:, :9])
    assert_close(torch.stack(logits[:-1]), theirs["text_logits"])
    assert len(theirs["user"]) > 3 * lm.config.temporal.context


@pytest.mark.parametrize("case", ["recording", "role_alone"])
@torch.no_grad()
def test_step_by_step_the_prompt_leaves_the_same(lm: LMModel, recorded, assert_close, case: str) -> None:
    theirs, generator = recorded(case), Generator(lm)
    tokens, _ = prompt_of(lm, theirs)
    ahead, stepped = generator.init_state(1), generator.init_state(1)
    prefill(generator, ahead, tokens[:-1])
    for row in tokens[:-1]:
        step(generator, stepped, row[:9], row[9:])
    assert torch.equal(ahead.ring.tokens, stepped.ring.tokens)
    assert torch.equal(ahead.ring.offset, stepped.ring.offset)
    assert torch.equal(ahead.temporal.offset, stepped.temporal.offset)
    assert_close(ahead.temporal.kv, stepped.temporal.kv)


def test_the_last_frame_alone_is_not_wholly_forced(lm: LMModel, recorded) -> None:
    tokens, _ = prompt_of(lm, recorded("recording"))
    assert len(tokens) == 7 + 6 + 5 + 6
    assert (tokens[:-1] >= 0).all()
    assert np.flatnonzero(tokens[-1] == -2).tolist() == [0, 1]  # text and first code, which have no delay
