"""What a step has brought for one conversation, on its way to those who hold it."""

from __future__ import annotations

from moshi_agent.engine.event_queue import Delivery, EventQueue
from moshi_agent.engine.reference_desk import ReferenceDesk
from moshi_agent.text.transcript import Transcript


class Intake:
    """Takes deliveries: into the transcript, to who looks things up, and to who reads the events.

    It holds none of those who hold the conversation, which would otherwise never be dropped.

    Args:
        events: for the reader.
        transcript: of the conversation.
        desk: None where nobody looks anything up.
    """

    def __init__(self, events: EventQueue, transcript: Transcript, desk: ReferenceDesk | None) -> None:
        self._events, self._transcript, self._desk = events, transcript, desk

    def put(self, delivery: Delivery) -> None:
        """Takes what has come; called by the engine's thread, which does not wait here."""
        if delivery.turns:
            self._transcript.begin_with(delivery.turns)
        for event in delivery.events:
            self._transcript.add(event)
        self._events.put(delivery)
        if self._desk is not None:
            for event in delivery.events:
                self._desk.take(event)
