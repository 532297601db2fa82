"""`moshi-agent run` on a small Hibiki against Kyutai's `moshi.run_inference`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from torch import Tensor

from moshi_agent import Conversation, load_checkpoint
from moshi_agent.audio.framing import frames_of
from moshi_agent.cli import main
from moshi_agent.text.pieces import is_text
from tests.text_tokenizers import shipped_tokenizer
from tests.translation_model import write_translation_checkpoint

OPTIONS = {"plain": [], "guided": ["--cfg-coef", "3"]}
END_OF_TEXT = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_translation_checkpoint(tmp_path / "hibiki")


def _written(tokens: Tensor) -> str:
    tokenizer = shipped_tokenizer()
    pieces = [tokenizer.IdToPiece(token) for token in tokens.tolist() if is_text(tokenizer, token)]
    return "".join(pieces).replace("\u2581", " ").strip()


@pytest.mark.parametrize("form", OPTIONS)
def test_its_files_are_the_peers(golden, folder: Path, tmp_path: Path, form: str) -> None:
    """The same sound, one frame later, for ours keeps the time at which it is heard; the same text."""
    peer = golden("translation").tensors("run")
    source, out, text = tmp_path / "in.wav", tmp_path / "out.wav", tmp_path / "out.json"
    sf.write(source, peer["speech"].numpy(), 24_000, subtype="FLOAT")
    args = ["run", source, "--model", folder, "--out", out, "--text", text, *OPTIONS[form]]
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    assert "Cut off" not in result.stderr
    sound, _ = sf.read(out, dtype="int16")
    assert not sound[:1920].any()
    theirs = peer[f"{form}.sound"].numpy()
    assert len(sound) - 1920 == len(theirs)
    assert np.abs(sound[1920:].astype(int) - theirs).max() <= 3  # of 32768
    assert json.loads(text.read_text())["text"] == _written(peer[f"{form}.text"])


@pytest.mark.parametrize("form", OPTIONS)
def test_it_is_done_when_the_peer_is(golden, folder: Path, form: str) -> None:
    """An end said while the input goes on is passed over; the first one after it counts."""
    peer = golden("translation").tensors("run")
    conversation = Conversation(load_checkpoint(folder), cfg_coef=3.0 if form == "guided" else 1.0)
    done = []
    for _ in conversation.stream(conversation.until_done(frames_of(peer["speech"].numpy()))):
        done.append(conversation.is_done)
    tokens = peer[f"{form}.text"].tolist()
    assert len(done) == len(tokens) + 1
    assert done.index(True) == len(done) - 1
    assert tokens[-1] == END_OF_TEXT


def test_the_recordings_have_an_end_that_comes_too_early(golden) -> None:
    peer = golden("translation").tensors("run")
    assert any(END_OF_TEXT in peer[f"{form}.text"][:-1].tolist() for form in OPTIONS)
