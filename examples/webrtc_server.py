"""Moshi on the telephone of every browser: a WebRTC server in one file.

    pip install "moshi-agent[webrtc]"
    python webrtc_server.py            # then open http://localhost:8000

The page is the package's own; leave `page_routes` out and bring another one. In a FastAPI application the
same routes go in with `app.router.routes += webrtc_routes(engine)`. In any other framework (aiohttp, Quart),
an endpoint that answers offers is

    connection = MoshiConnection(engine)
    return {"type": "answer", "sdp": await connection.answer(body["sdp"])}

The routes refuse requests of other web pages; a host with a name of its own says so:
`webrtc_routes(engine, origins=("https://voice.example.org",))`. They do not ask who calls.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from moshi_agent import Engine
from moshi_agent_adapters.server.page_routes import page_routes
from moshi_agent_adapters.webrtc import Connections, webrtc_routes


def create_app(source: str = "tiny", capacity: int = 4) -> Starlette:
    """An application that serves `capacity` callers at once."""
    engine = Engine.load(source, capacity=capacity)
    calls = Connections(engine)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with engine:
            yield
            await calls.close_all()

    return Starlette(routes=[*webrtc_routes(engine, connections=calls), *page_routes()], lifespan=lifespan)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Moshi in every browser of this machine, over WebRTC.")
    options.add_argument("--model", default="tiny", help="a name, a folder or a repository of the hub")
    options.add_argument("--capacity", type=int, default=4, help="callers at once")
    options.add_argument("--port", type=int, default=8000)
    chosen = options.parse_args()
    # Whoever connects has shown nothing yet: what it sends is an offer at most, and is not unpacked.
    uvicorn.run(
        create_app(chosen.model, chosen.capacity),
        host="localhost",
        port=chosen.port,
        ws_max_size=256 * 1024,
        ws_per_message_deflate=False,
    )
