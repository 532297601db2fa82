"""The table of cards in the documents is the one that is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("memory_on_paper.py")
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.mark.slow
def test_the_documents_have_the_table_as_it_is_printed() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) > 12
    assert "\n".join(rows) in PAGE.read_text(encoding="utf-8")
