"""What holds of the documents beside their blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents.blocks import CHECKOUT, DOCUMENTS

README_LIMIT_BYTES = 8 * 1024
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


def _anchors(document: Path) -> set[str]:
    """The fragments that headings of a document have."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert (CHECKOUT / "README.md").stat().st_size <= README_LIMIT_BYTES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_something(document: Path) -> None:
    broken: list[str] = []
    for path, fragment in _LINK.findall(document.read_text(encoding="utf-8")):
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and fragment[1:] not in _anchors(target)):
            broken.append(path + fragment)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_named_is_there(document: Path) -> None:
    named = re.findall(r"\b(?:examples|tests|moshi_agent|adapters)/[\w/]+\.\w+", document.read_text("utf-8"))
    assert not [path for path in named if not (CHECKOUT / path).exists()]


def test_the_architecture_names_parts_that_are_there() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    roots = [CHECKOUT, CHECKOUT / "moshi_agent", CHECKOUT / "adapters" / "moshi_agent_adapters"]
    named = re.findall(r"`([\w/]+(?:/|\.py))`", text)
    assert named
    assert not [path for path in named if not any((root / path).exists() for root in roots)]


@pytest.mark.parametrize("package", ["moshi_agent", "adapters/moshi_agent_adapters"])
def test_the_architecture_names_every_folder(package: str) -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (CHECKOUT / package).glob("*/__init__.py")}
    assert not [folder for folder in folders if f"`{folder}/`" not in text]
