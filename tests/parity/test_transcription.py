"""A small recogniser against Kyutai's `moshi.run_inference`: the same tokens, heads and text of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner

from moshi_agent import SamplingConfig, load_checkpoint
from moshi_agent.cli import main
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.transcription import TimedPiece, Transcriber
from tests.recogniser_model import write_recogniser_checkpoint

Check = Callable[..., None]
PREFIX_S, DELAY_S = 0.3, 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recogniser_checkpoint(tmp_path_factory.mktemp("stt"))


@pytest.mark.parametrize("pack", [None, "float32"])
def test_every_step_gives_the_peers_token_and_pause_probabilities(
    golden, folder: Path, assert_close: Check, pack: str | None
) -> None:
    peer = golden("transcription").tensors("run")
    step = FrameStep(load_checkpoint(folder, pack=pack), rows=2)
    step.begin_row(1, SamplingConfig(greedy=True))
    padding = (round(PREFIX_S * 24_000), round((DELAY_S + 1) * 24_000))
    heard = np.pad(peer["speech"].numpy(), padding)
    frames = heard[: len(heard) // 1920 * 1920].reshape(-1, 1920)
    outputs = [step.run([RowInput(row=1, pcm=pcm)])[0] for pcm in (None, *frames)]
    assert [output.next_text for output in outputs] == peer["tokens"].tolist()
    assert_close(torch.tensor([output.heads for output in outputs]), peer["heads"][:, :, 0])


@pytest.mark.parametrize("chunk", [480, 1920, 7001])
def test_audio_in_chunks_gives_the_peers_text(golden, folder: Path, chunk: int) -> None:
    speech = golden("transcription").tensors("run")["speech"].numpy()
    transcriber = Transcriber(load_checkpoint(folder))
    chunks = [speech[start : start + chunk] for start in range(0, len(speech), chunk)]
    parts = list(transcriber.stream(chunks))
    text = "".join(part.text for part in parts if isinstance(part, TimedPiece))
    assert text == golden("transcription").json("text")["text"]


@pytest.mark.parametrize("command", ["transcribe", "run"])
def test_a_file_gives_the_peers_text(golden, folder: Path, tmp_path: Path, command: str) -> None:
    speech, source = golden("transcription").tensors("run")["speech"].numpy(), tmp_path / "in.wav"
    sf.write(source, speech, 24_000, subtype="FLOAT")
    result = CliRunner().invoke(main, [command, str(source), "--model", str(folder)])
    assert result.exit_code == 0, result.output
    # What the model takes for a pause begins a line.
    assert result.stdout.replace("\n", " ").split() == golden("transcription").json("text")["text"].split()
