"""The OpenAPI document of the HTTP endpoints. Websockets have no place in it: its description names them."""

from __future__ import annotations

from typing import Any

from moshi_agent import __version__

_DESCRIPTION = (
    "Conversations are held over websockets: `/api/chat` speaks Kyutai's binary protocol, "
    "`/v1/live/sessions` OpenAI's GPT-Live; or over WebRTC, begun at `/api/webrtc`, with one audio track "
    "each way and a data channel on which events come as JSON."
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
_OPTIONS = {"greet": "boolean", "seed": "integer", "role": "string", "voice": "string"}
_CALL = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "sdp")}}
_CALL_ERRORS = {
    "400": "A bad request or offer",
    "404": "The call is over",
    "429": "Too many calls from one address",
    "503": "No row is free",
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
            "/api/webrtc": _calls(),
            "/api/webrtc/{call_id}": _call(),
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
    responses: dict[str, Any] = {
        "200": {"description": "Yes" if failing else "It", "content": content},
        "401": _error("No valid token"),
    }
    if failing:
        responses["503"] = {"description": "No", "content": content}
    return {"get": {"summary": summary, "responses": responses}}


def _calls() -> dict[str, Any]:
    """What a page has to know, and offers."""
    known = _object({"model": "string", "ice_servers": "array", "options": "object"})
    offer = {
        "type": "object",
        "properties": {"sdp": {"type": "string"}, "options": _object(_OPTIONS)},
        "required": ["sdp"],
    }
    post = _operation("Begins a call: an SDP offer, and its answer", "201", _CALL, ("400", "429", "503"))
    return _get("What a caller has to know: ICE servers, what can be chosen", known) | {
        "post": post | _body(offer)
    }


def _call() -> dict[str, Any]:
    """A call that runs."""
    renewed = _object({"sdp": "string"}) | {"required": ["sdp"]}
    call_id = {"name": "call_id", "in": "path", "required": True, "schema": {"type": "string"}}
    patch = _operation("Renews an offer, as after an ICE restart", "200", _CALL, ("400", "404"))
    return {
        "parameters": [call_id],
        "patch": patch | _body(renewed),
        "delete": _operation("Hangs up", "204", None, ("404",)),
    }


def _operation(
    summary: str, status: str, schema: dict[str, Any] | None, errors: tuple[str, ...]
) -> dict[str, Any]:
    answer = {"description": "Done"} | (
        {"content": {"application/json": {"schema": schema}}} if schema else {}
    )
    responses = {status: answer, "401": _error("No valid token")}
    return {
        "summary": summary,
        "responses": responses | {code: _error(_CALL_ERRORS[code]) for code in errors},
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _error(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: dict[str, str]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}
