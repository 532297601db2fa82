"""The OpenAPI document of the HTTP endpoints. Websockets have no place in it: its description names them."""

from __future__ import annotations

from typing import Any

from moshi_agent import __version__

_DESCRIPTION = (
    "Conversations are held over websockets: `/api/chat` speaks Kyutai's binary protocol, "
    "`/v1/live/sessions` OpenAI's GPT-Live."
)
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("type", "code", "message")},
        }
    },
}
_READY = {
    "ready": "boolean",
    "draining": "boolean",
    "rows": "integer",
    "live": "integer",
    "free": "integer",
    "by_memory": "integer",
    "by_time": "integer",
    "row_bytes": "integer",
    "step_ms": "object",
    "budget_ms": "number",
}


def openapi_document() -> dict[str, Any]:
    """The document, version 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "moshi-agent", "version": __version__, "description": _DESCRIPTION},
        "paths": {
            "/health": _get("Whether the engine works", _object({"status": "string"}), failing=True),
            "/ready": _get("Whether one more call would be taken", _object(_READY), failing=True),
            "/metrics": _get("Figures for Prometheus", {"type": "string"}, media_type="text/plain"),
            "/v1/models": _get("The model, in OpenAI's form", _object({"object": "string", "data": "array"})),
            "/openapi.json": _get("This document", {"type": "object"}),
        },
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _get(
    summary: str, schema: dict[str, Any], media_type: str = "application/json", failing: bool = False
) -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, Any] = {
        "200": {"description": "Yes" if failing else "It", "content": content},
        "401": {"description": "No valid token", "content": error},
    }
    if failing:
        responses["503"] = {"description": "No", "content": content}
    return {"get": {"summary": summary, "responses": responses}}


def _object(properties: dict[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}
