"""What Moshi takes from a context: a role, if there is one, and nothing else."""

from __future__ import annotations

from typing import Any, cast

from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.processors.aggregators.llm_context import LLMContext

_ROLES_OF_SYSTEM = ("system", "developer")


def role_in(context: LLMContext) -> str | None:
    """Returns the text of the system messages, if there are any."""
    said = [one.get("content") for one in _messages(context) if one.get("role") in _ROLES_OF_SYSTEM]
    return "\n".join(text for text in map(_text_of, said) if text.strip()) or None


def ignored_in(context: LLMContext) -> list[str]:
    """Says why some of what the context holds has no effect on a call that begins with it."""
    reasons: list[str] = []
    if any(one.get("role") not in _ROLES_OF_SYSTEM for one in _messages(context)):
        reasons.append("Moshi hears, and cannot read: what has been said before does not reach it")
    if isinstance(context.tools, ToolsSchema):
        reasons.append("Moshi calls no functions: the tools of the context have no effect")
    return reasons


def _messages(context: LLMContext) -> list[Any]:
    return [message for message in context.get_messages() if isinstance(message, dict)]


def _text_of(content: Any) -> str:
    """The text of a message, which is in parts where it may have others beside."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = cast("list[dict[str, Any]]", content)
    return " ".join(part["text"] for part in parts if part.get("type") == "text")
