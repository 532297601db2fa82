"""Finds the fenced blocks of the documents, and the marks before them.

A mark is an HTML comment on its own line directly before a block; there may be several, a line each.

    <!-- not run: REASON -->   needs what a test has not: a GPU, the hub, an account
    <!-- slow -->              runs with the tests that take long
    <!-- prints: TEXT -->      has to print this
    <!-- with a server -->     runs beside `moshi-agent serve`, which is at localhost:8998 in the documents
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = [
    *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]
PROGRAMS = ("python", "sh", "js")
PICTURES = ("mermaid", "text")  # to look at, not to run

_MARKS = r"(?P<marks>(?:^<!-- .*? -->\n)*)"
_BLOCK = re.compile(_MARKS + r"^(?P<fence>```+)(?P<language>\S*).*\n(?P<code>(?:.*\n)*?)(?P=fence)$", re.M)
_MARK = re.compile(r"<!-- (not run|prints|slow|with a server)(?:: (.+))? -->")


@dataclass(frozen=True)
class Block:
    """One fenced block, and what the document says about running it."""

    document: str
    line: int
    language: str
    code: str
    not_run: str | None  # the reason
    prints: str | None
    is_slow: bool
    needs_server: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    """The blocks of one document, in their order."""
    text = document.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        marks = dict(_MARK.findall(match["marks"]))
        found.append(
            Block(
                document=document.relative_to(CHECKOUT).as_posix(),
                line=text.count("\n", 0, match.start("fence")) + 1,
                language=match["language"],
                code=match["code"],
                not_run=marks.get("not run"),
                prints=marks.get("prints"),
                is_slow="slow" in marks,
                needs_server="with a server" in marks,
            )
        )
    return found


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
