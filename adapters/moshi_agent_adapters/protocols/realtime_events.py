"""The server's events of OpenAI's Realtime protocol: each with an id of its own, errors in one form."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from moshi_agent_adapters.protocols.call_protocol import CallEnd, EndKind, ProtocolError

_CLIENT_FAULTS: tuple[EndKind, ...] = ("bad_message", "too_fast", "too_slow", "idle", "expired")


class RealtimeEvents:
    """Writes the events of one call. Called with a type and fields, it returns that event as JSON."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, kind: str, **fields: object) -> str:
        """Returns an event of this type."""
        return json.dumps({"type": kind, "event_id": f"event_{next(self._numbers)}", **fields})

    def refused(self, error: ProtocolError) -> str:
        """Returns the error about one message."""
        return self._error("invalid_request_error", error.code, str(error), error.client_event_id)

    def ended(self, end: CallEnd) -> Iterator[str]:
        """Returns the error that ended a call, if one did."""
        if not end.is_good:
            fault = "invalid_request_error" if end.kind in _CLIENT_FAULTS else "server_error"
            code = "session_expired" if end.kind == "expired" else end.code or end.kind
            yield self._error(fault, code, end.text, end.client_event_id)

    def _error(self, fault: str, code: str, message: str, client_id: str | None) -> str:
        error = {"type": fault, "code": code, "message": message, "param": None, "event_id": client_id}
        return self("error", error=error)
