"""The tables of cards and of weights in the documents are those that are counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("memory_on_paper.py")
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.mark.slow
def test_the_documents_have_the_tables_as_they_are_printed() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    page = PAGE.read_text(encoding="utf-8")
    cards, weights = done.stdout.rstrip("\n").split("\n\n")
    _, _, cards = cards.partition("\n")
    for table, count in ((cards, 24), (weights, 3)):
        assert table.count("\n") == count + 1
        assert table in page
