"""Listens in on a conversation, whoever holds it: a recording does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from moshi_agent.audio.framing import Frame
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.event_queue import Delivery, Outlet
from moshi_agent.events import Event


class SessionTap(Protocol):
    """Is told what goes into a conversation and what comes out of it.

    Both methods are called in the threads that do the work, a frame before what answers it; they return at
    once and raise nothing.
    """

    def heard(self, frame: Frame) -> None:
        """Takes a frame of the user, [1920] at 24 kHz, on its way to the engine."""
        ...

    def told(self, inputs_taken: int, events: Sequence[Event]) -> None:
        """Takes events that come together, and how many of the user's frames were used up for them."""
        ...


# Makes the tap of a new conversation.
NewTap = Callable[[SessionConfig], SessionTap]


def tapped(outlet: Outlet, tap: SessionTap) -> Outlet:
    """Tells the tap of whatever goes through the outlet."""

    def put(delivery: Delivery) -> None:
        tap.told(delivery.inputs_taken, delivery.events)
        outlet(delivery)

    return put
