"""Kyutai's commands by habit: their options lead to ours, or to a sentence that says what to do instead."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.checkpoint.kyutai.files import locate_kyutai
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.cli.kyutai_files import GivenFiles, as_model
from moshi_agent.client import main as client
from moshi_agent.server import main as server

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = locate_kyutai(open_source("tiny"))


def _invoke(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gradio-tunnel", "--port", "9000"], "cloudflared tunnel --url http://localhost:9000"),
        (["--gradio-tunnel-token", "secret"], "ngrok http 8998"),
        (["--half"], "bfloat16"),
        (["--static", "pages"], "--allow-origin"),
    ],
)
def test_what_the_server_cannot_do_any_more_is_one_sentence(arguments: list[str], said: str) -> None:
    result = _invoke(server, "--hf-repo", "tiny", *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


def test_the_server_is_ours() -> None:
    """It refuses, in its words, to let everybody in."""
    pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
    result = _invoke(server, "--hf-repo", "tiny", "--host", "0.0.0.0", "--device", "cpu")
    assert result.exit_code == 1
    assert result.output.startswith("error: ") and "token" in result.output


def test_the_client_is_ours() -> None:
    """It finds no server where there is none, or no microphone, and says so in one line."""
    pytest.importorskip("livekit.rtc", reason="needs the extra `talk`: pip install moshi-agent[talk]")
    result = _invoke(client, "--host", "localhost", "--port", "1")
    assert result.exit_code == 1
    assert result.output.startswith("error: ")


def test_single_files_make_a_checkpoint(tmp_path: Path) -> None:
    """Other weights with a checkpoint's own rest, and the advice to guide it."""
    mimi = tmp_path / "other.safetensors"
    mimi.write_bytes(TINY.mimi_weights.read_bytes())
    files = GivenFiles(
        hf_repo="tiny", moshi_weight=None, mimi_weight=mimi, tokenizer=TINY.tokenizer, config_path=None
    )
    with as_model(files, cfg_coef=1.0) as model:
        assert locate_kyutai(open_source(model)).mimi_weights == mimi
        checkpoint = load_checkpoint(model)
    assert checkpoint.lm is not None and checkpoint.lm_gen_config["cfg_coef"] == 1.0
    assert checkpoint.mimi_config == load_checkpoint("tiny").mimi_config
    assert not Path(model).exists()


def test_a_checkpoint_alone_is_named_as_it_is() -> None:
    files = GivenFiles(hf_repo="tiny", moshi_weight=None, mimi_weight=None, tokenizer=None, config_path=None)
    with as_model(files) as model:
        assert model == "tiny"


def test_the_streaming_test_sends_speech_through_the_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script = SCRIPTS / "mimi_streaming_test.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--hf-repo", "tiny", "--device", "cpu"])
    runpy.run_path(str(script), run_name="__main__")
    assert "ms a frame" in capsys.readouterr().out
    streamed, at_once = Path("streaming_out.wav"), Path("roundtrip_out.wav")
    assert streamed.stat().st_size == at_once.stat().st_size > 48_000


def test_the_benchmark_times_the_step() -> None:
    main = runpy.run_path(str(SCRIPTS / "moshi_benchmark.py"))["main"]
    result = _invoke(main, "--hf-repo", "tiny", "--steps", "2", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "2 frames, step" in result.output
