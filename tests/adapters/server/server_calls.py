"""A server on a free port of this machine, in a thread."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from starlette.applications import Starlette

from moshi_agent import Engine
from moshi_agent_adapters.server import Server, ServerConfig, create_app
from moshi_agent_adapters.server.http_protocol import uvicorn_options
from tests.adapters.server.server_clients import PATIENCE_S


@dataclass(frozen=True)
class Running:
    """A server that runs in a thread."""

    port: int
    server: Server

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def live(self) -> int:
        """Rows of the engine that are taken."""
        return self.server.engine.metrics().live_sessions

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=names)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, body

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path)[2])


@contextmanager
def running(engine: Engine, config: ServerConfig | None = None, **options: Any) -> Iterator[Running]:
    """Runs the application as `moshi-agent serve` does."""
    config = config or ServerConfig()
    if config.calls_per_address is None:
        config = replace(config, calls_per_address=32)  # here all callers have one address
    with running_app(app := create_app(engine, config), config, **options) as port:
        yield Running(port, app.state.server)


@contextmanager
def running_app(app: Starlette, config: ServerConfig | None = None, **options: Any) -> Iterator[int]:
    """Runs an application in a thread; gives its port."""
    options = uvicorn_options(config or ServerConfig()) | options
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, **options))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Waits until it holds; fails if it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
