"""What an error is called outside: a status of HTTP, and a code by which programs tell them apart."""

from __future__ import annotations

from moshi_agent import (
    ConfigError,
    EngineFull,
    EngineUnhealthy,
    InputError,
    MoshiAgentError,
    SessionClosed,
)
from moshi_agent_adapters.webrtc.connection import TooManyCalls, TooManyOffers
from moshi_agent_adapters.webrtc.offer import OfferError


class ForeignPage(MoshiAgentError):
    """A web page elsewhere, or a name that was made to point here."""


def status_of(error: MoshiAgentError) -> tuple[int, str]:
    """Returns the status of HTTP and the code."""
    match error:
        case EngineFull():
            return 503, "engine_full"
        case EngineUnhealthy():
            return 503, "engine_unhealthy"
        case SessionClosed():
            return 404, "no_such_call"
        case ForeignPage():
            return 403, "forbidden"
        case TooManyCalls():
            return 429, "too_many_calls"
        case TooManyOffers():
            return 429, "too_many_offers"
        case OfferError():
            return 400, "bad_offer"
        case InputError() | ConfigError():
            return 400, "bad_request"
        case _:
            return 500, "fault"
