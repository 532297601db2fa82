"""Shows the comment beside a field in the API reference, as the field's docstring.

The configurations of this project explain each field by a comment on its line, or on the lines above it.
"""

from __future__ import annotations

import io
import tokenize
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Gives every attribute of a class that has no docstring the comment in the source beside it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        if attr.docstring is not None or not isinstance(attr.parent, griffe.Class):
            return
        if attr.lineno is None or attr.endlineno is None:
            return
        lines = attr.module.source.splitlines()
        first = attr.lineno - 1
        text = _comment_in(lines[first : attr.endlineno]) or _comment_above(lines, first)
        if text:
            attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)


def _comment_in(lines: list[str]) -> str:
    """The comment within a statement, wherever its brackets end."""
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(line.strip() for line in lines)).readline)
    return _as_sentence([token.string for token in tokens if token.type == tokenize.COMMENT])


def _comment_above(lines: list[str], index: int) -> str:
    """The comment lines that stand directly above line `index`."""
    first = index
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return _as_sentence(lines[first:index])


def _as_sentence(comments: list[str]) -> str:
    """The comments as one text that begins with a capital letter, without pyright's directives."""
    text = " ".join(comment.strip().lstrip("# ") for comment in comments if "pyright:" not in comment)
    return text[:1].upper() + text[1:]
