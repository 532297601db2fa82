"""Every block of the README and of the documents is run as it stands there, or says why not.

`blocks.py` says how a document marks a block. Those of the README run among the quick tests, the others, of
some seconds each, among the long ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile as sf

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions
from tests.documents.blocks import BLOCKS, CHECKOUT, DOCUMENTS, PICTURES, PROGRAMS, Block, blocks_of

SERVER = "localhost:8998"  # as the documents write it
LIMIT_S = 240  # on a machine that does much else; a few seconds on an idle one
RUN = [
    pytest.param(
        block,
        id=str(block),
        marks=[pytest.mark.slow] if block.is_slow or block.document != "README.md" else [],
    )
    for block in BLOCKS
    if block.language in PROGRAMS and block.not_run is None
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has: a spoken question, and the examples."""
    sf.write(tmp_path / "question.wav", read_audio(sample_questions()[0].path), 24_000)
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    return tmp_path


@pytest.fixture(scope="module")
def server_address() -> Iterator[str]:
    """Where `moshi-agent serve` is, for the blocks that call it: host and port."""
    pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")
    from tests.adapters.server.server_process import serving

    with serving("--overcommit") as server:
        yield f"localhost:{server.port}"


@pytest.mark.parametrize("block", RUN)
def test_the_block_runs(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    code = block.code
    if block.needs_server:
        assert SERVER in code
        code = code.replace(SERVER, request.getfixturevalue("server_address"))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        _command(block.language, code, folder),
        cwd=folder,
        env=os.environ | {"PATH": programs, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert block.prints is None or block.prints in run.stdout


def _command(language: str, code: str, folder: Path) -> list[str]:
    """How a reader would run it."""
    if language == "python":
        return [sys.executable, "-c", code]
    if language == "sh":
        return ["bash", "-euo", "pipefail", "-c", code]
    (folder / "block.mjs").write_text(code, encoding="utf-8")
    node = ["node", "--experimental-websocket"]
    if shutil.which("node") is None or subprocess.run([*node, "-e", ""], capture_output=True).returncode:
        pytest.skip("needs Node.js 20 or newer")
    return [*node, "block.mjs"]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language, "a block without a language: ```text for what is neither program nor data"
    is_run = block.language in PROGRAMS and block.not_run is None
    assert is_run or block.not_run or block.language in PICTURES
    unused = block.prints or block.is_slow or block.needs_server
    assert is_run or not unused, "a mark for a block that is not run"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_block_is_overlooked(document: Path) -> None:
    fences = sum(line.lstrip().startswith("```") for line in document.read_text("utf-8").splitlines())
    assert fences == 2 * len(blocks_of(document))
