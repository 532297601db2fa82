"""Something is looked up in a call on Ray: a replica finds the operator's function, or a language model."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("openai", reason="the openai package is not installed")
pytest.importorskip("pocketsphinx", reason="needs the extra `annotate`: pip install moshi-agent[annotate]")

from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import Samples
from tests.adapters.language_model import language_model
from tests.adapters.ray.ray_process import serving_on_ray
from tests.adapters.server.server_clients import Heard, ask_kyutai

pytestmark = [pytest.mark.slow, pytest.mark.load, pytest.mark.real_time, pytest.mark.timeout(300)]
EXAMPLE = Path(__file__).parents[3] / "examples" / "look_up.py"
HEARING = ("--transcribe", f"{EXAMPLE}:Hearing")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    file = tmp_path_factory.mktemp("question") / "question.wav"
    subprocess.run(["flite", "-voice", "slt", "-t", "Where is my order?", "-o", file], check=True)
    yield read_audio(file)


def is_spoken(heard: Heard, answer: str) -> bool:
    return heard.text.strip() == answer and heard.energy > 1


def test_a_function_of_a_file_answers(asked: Samples) -> None:
    with serving_on_ray("--look-up", f"{EXAMPLE}:look_up", *HEARING) as cluster:
        heard = asyncio.run(ask_kyutai(cluster.websocket, asked, "on Friday"))
    assert is_spoken(heard, "Your lamp will arrive on Friday")


def test_a_language_model_answers(asked: Samples) -> None:
    with language_model(lambda body: "Your bicycle is on its way.") as endpoint:
        model = ("--backend-url", endpoint.url, "--backend-model", "m")
        with serving_on_ray(*model, *HEARING) as cluster:
            heard = asyncio.run(ask_kyutai(cluster.websocket, asked, "on its way"))
    assert is_spoken(heard, "Your bicycle is on its way")
    assert endpoint.asked[0]["messages"][-1] == {"role": "user", "content": "where is my order"}


def test_a_model_that_no_replica_finds_is_one_line() -> None:
    with pytest.raises(AssertionError) as told, serving_on_ray("--model", "/nowhere/model"):
        pass
    last = str(told.value).strip().rpartition("\n")[2]
    assert last.startswith("error: no replica begins: moshi_agent.errors.CheckpointError: /nowhere/model")
