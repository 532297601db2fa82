"""`examples/finetune_tiny.py`: what it refuses at once, and that less of it still teaches."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from moshi_agent import load_checkpoint
from moshi_agent.training.tiny.exchanges.calls import CallPlan
from moshi_agent.training.tiny.exchanges.lesson import LessonPlan, measure, write_lesson
from moshi_agent.training.tiny.exchanges.scoring import SETTINGS, group_scores, score_table
from moshi_agent.training.tiny.exchanges.speech import SpeechPlan
from moshi_agent.training.tiny.exchanges.text_file import read_exchanges
from moshi_agent.training.tiny.tokenizer import load_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "finetune_tiny.py"
PLAN = LessonPlan(
    speech=SpeechPlan(new_renderings=40, old_renderings=4, unknown=60),
    calls=CallPlan(calls=90),
    repeats=12,
)
STEPS = 50
FEW_CALLS = replace(SETTINGS, calls=6, seconds=60.0)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finetune_tiny_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_that_is_no_good_is_an_error_of_one_line(tmp_path: Path) -> None:
    exchanges, folder = tmp_path / "exchanges.txt", tmp_path / "run"
    exchanges.write_text("What is this?\n")
    command = [sys.executable, str(EXAMPLE), str(exchanges), "--folder", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert "line 1" in run.stderr
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("flite") is None, reason="not installed: flite")
def test_two_new_exchanges_are_taught_by_the_public_command(example: ModuleType, tmp_path: Path) -> None:
    """Asked in voices that it has not heard, the model gives the new answers, and still the old ones."""
    new = read_exchanges(EXAMPLES / "cafe.txt")[:2]
    manifest = write_lesson(tmp_path, new, load_tokenizer(), PLAN)
    model = example.train(tmp_path, manifest, STEPS, threads=1)
    calls = measure(load_checkpoint(model, pack="auto"), tmp_path, new, renderings=6, settings=FEW_CALLS)
    taught, kept, _ = scores = group_scores(calls, new)
    print(score_table(scores))
    assert taught.right.count >= 3 and kept.right.count >= 20
    assert taught.right.good >= 0.75 * taught.right.count, score_table(scores)
    assert kept.right.good >= 0.65 * kept.right.count, score_table(scores)
