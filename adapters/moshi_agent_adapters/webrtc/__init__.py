"""Moshi over WebRTC: a bot that a browser, a phone or another aiortc peer calls.

    from moshi_agent import Engine
    from moshi_agent_adapters.webrtc import MoshiConnection

    engine = Engine.load("tiny").start()
    connection = MoshiConnection(engine)
    answer_sdp = await connection.answer(offer_sdp)

One audio track each way; what happens in the conversation comes as JSON over a data channel that the caller
opens. `webrtc_routes` are endpoints for offers, for any Starlette or FastAPI application.
Needs the extra `webrtc`.
"""

from moshi_agent_adapters.webrtc.config import ConnectionConfig, IceServer
from moshi_agent_adapters.webrtc.connection import MoshiConnection, TooManyCalls, TooManyOffers
from moshi_agent_adapters.webrtc.connections import Connections
from moshi_agent_adapters.webrtc.offer import OfferError
from moshi_agent_adapters.webrtc.routes import webrtc_routes

__all__ = [
    "ConnectionConfig",
    "Connections",
    "IceServer",
    "MoshiConnection",
    "OfferError",
    "TooManyCalls",
    "TooManyOffers",
    "webrtc_routes",
]
