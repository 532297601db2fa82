"""A server for Moshi: a web page, WebRTC, Kyutai's and OpenAI's websocket protocols, on one shared engine.

    app.py               the ASGI application
    config.py            how a server is set up
    http_protocol.py     one connection, bounded before anybody has shown a token
    websocket_protocol.py  likewise, once it is a websocket
    tls.py               likewise, before its TLS handshake is over
    security.py          who is let in
    sign_in.py           how a person shows a token
    call.py              one call: its input, output and time
    kyutai_chat.py       /api/chat
    openai_calls.py      /v1/live/sessions, /v1/realtime
    transcriptions.py    /v1/audio/transcriptions, /v1/realtime: where the model is a recogniser
    web_calls.py         the page, and what it calls over WebRTC
    health.py            /health, /ready, /metrics, /v1/models
    drain.py             the end of a server
    handover.py          calls that go on in another process
    heap.py              memory that calls leave behind
    command.py           `moshi-agent serve`

Needs the extra `server`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moshi_agent_adapters.server.app import GROUPS, RECOGNISER_GROUPS, RouteGroup, create_app
    from moshi_agent_adapters.server.config import ServerConfig
    from moshi_agent_adapters.server.server import Server

__all__ = ["GROUPS", "RECOGNISER_GROUPS", "RouteGroup", "Server", "ServerConfig", "create_app"]

# Imported when first asked for: clients use the protocols too, and need neither torch nor a web server.
_LAZY = {"Server": "server", "ServerConfig": "config"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY.get(name, 'app')}"), name)
