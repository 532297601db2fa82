"""A function of the operator's own, asked about all that callers say: what it does not find is no failure."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent import Engine, ReferenceWanted
from moshi_agent_adapters.protocols.call_protocol import Wanted
from moshi_agent_adapters.server import Server, ServerConfig
from moshi_agent_adapters.server.command import look_up
from tests.recogniser_model import write_sparing_checkpoint

EXAMPLE = Path(__file__).parents[3] / "examples" / "look_up.py"
ASK = """
import asyncio, pickle, sys
from types import SimpleNamespace
print(asyncio.run(pickle.load(sys.stdin.buffer)(SimpleNamespace(question="where is my order"))))
"""


def test_another_process_imports_a_function_by_its_name() -> None:
    sent = pickle.dumps(look_up(f"{EXAMPLE}:look_up"))
    asked = subprocess.run([sys.executable, "-c", ASK], input=sent, stdout=subprocess.PIPE, check=True)
    assert asked.stdout.decode().strip() == "Your lamp will arrive on Friday."


@pytest.mark.parametrize("delegate", [None, "turns"])
def test_a_function_asked_about_all_that_is_said_finds_nothing_in_silence(
    tmp_path: Path, delegate: Literal["turns"] | None
) -> None:
    recogniser = str(write_sparing_checkpoint(tmp_path))
    with Engine.load("tiny", device="cpu", capacity=1, transcriber=recogniser, admit_by_time=False) as engine:
        server = Server(engine, ServerConfig(look_up=_find_nothing, delegate=delegate))
        asking = server.session_config(Wanted()).asking
    assert asking is not None and asking.when is not None
    assert asking.apology is None


async def _find_nothing(asked: ReferenceWanted) -> str | None:
    del asked
    return None
