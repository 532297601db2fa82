"""The model in the package, read by Kyutai's package as well."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import frames_of
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.questions import find_question, sample_questions
from tests.checkpoint.peer import greedy_tokens, peer_checkpoint, peer_greedy_tokens

FOLDER = Path(str(resources.files("moshi_agent"))) / "assets" / "tiny"
NUMBERS = ("1", "2")
PADDING = (0, 3)  # text tokens that say nothing


@pytest.mark.filterwarnings("ignore")  # what the other package and its libraries warn of is not ours
@torch.no_grad()
def test_kyutais_package_says_the_same_with_the_built_in_model() -> None:
    """Two sample questions, an answer after each: the caller's codes, greedy tokens and audio agree."""
    info = peer_checkpoint(FOLDER)
    checkpoint = load_checkpoint(FOLDER)
    mimi, lm, peer_mimi = checkpoint.mimi, checkpoint.lm, info.get_mimi()
    assert lm is not None and checkpoint.tokenizer is not None
    questions = [find_question(number, sample_questions()) for number in NUMBERS]
    frames = [frame for question in questions for frame in frames_of(read_audio(question.path), tail_s=5.0)]
    speech = torch.from_numpy(np.concatenate(frames))[None, None]
    user = mimi.encode(speech)
    assert torch.equal(user, peer_mimi.encode(speech))
    ours, peers = greedy_tokens(lm, user), peer_greedy_tokens(info, user)
    assert torch.equal(ours, peers)
    said = checkpoint.tokenizer.decode([int(token) for token in ours[0, 0] if token not in PADDING])
    answers = {
        pair["question"]: pair["answer"] for pair in json.loads((FOLDER / "exchanges.json").read_text())
    }
    assert said == " ".join(answers[question.text] for question in questions)
    audio = mimi.decode(ours[:, 1:])
    assert audio.abs().max() > 0.1
    torch.testing.assert_close(audio, peer_mimi.decode(ours[:, 1:]), rtol=1e-4, atol=1e-4)
