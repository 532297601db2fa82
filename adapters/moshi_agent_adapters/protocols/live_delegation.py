"""GPT-Live's client delegation: what the conversation asks for is looked up by the client.

    server  session.delegation.created      the request; it has no text, the transcript is what it is about
    client  session.commentary.append       its answer, to be spoken; more of them may follow
            session.thinking.append         its answer as material, for models that were trained to take it
    server  info                            the answer came too late, or the request is over without one

A request is over when it was answered, when the user goes on, when the next one is made, and after a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from moshi_agent.engine.asking import Referral
from moshi_agent.events import ReferenceEnded, ReferenceWanted
from moshi_agent_adapters.protocols.call_protocol import Message, Order, ProtocolError, Refer, Say

MakeEvent = Callable[..., str]
_WHY_OVER = {
    "superseded": "something newer was asked for",
    "interrupted": "the user went on speaking",
    "timed_out": "no answer came in time",
    "failed": "there was no answer that could be spoken",
}


def delegation_id(number: int) -> str:
    """Names a request of the conversation as clients know it."""
    return f"delegation_{number}"


def created(event: ReferenceWanted, make: MakeEvent, target: str, **more: str) -> Message:
    """Tells the client of a request. `make` makes an event of a type, a client's event and fields."""
    delegation = {"id": delegation_id(event.id), "type": "delegation", "target": target, **more}
    return make("session.delegation.created", offset_ms=round(1000 * event.media_s), delegation=delegation)


def over(event: ReferenceEnded, make: MakeEvent) -> Iterator[Message]:
    """Tells that a request is over without an answer, and why."""
    if event.reason in _WHY_OVER:
        why = f"{delegation_id(event.id)} is over: {_WHY_OVER[event.reason]}"
        yield make("info", code=f"delegation_{event.reason}", message=why)


class ClientDelegation:
    """Turns the requests of one conversation into events of the client, and its answers into orders."""

    def __init__(self, make_event: MakeEvent, takes_references: bool) -> None:
        self._make = make_event
        self._takes_references = takes_references
        self._latest = 0  # the request that was told last
        self._answered = 0  # the one that commentary has answered last

    def tell(self, event: ReferenceWanted | ReferenceEnded) -> Iterator[Message]:
        """Returns what the client is told."""
        if isinstance(event, ReferenceWanted):
            self._latest = event.id
            yield created(event, self._make, "client")
        else:
            yield from over(event, self._make)

    def comment(self, text: str, name: str, client_id: str | None) -> Iterator[Order]:
        """Speaks what answers a request, or what follows on its answer. Raises ProtocolError."""
        number = self._number(name)
        if number == self._answered == self._latest:
            yield Say(text, client_id, alone=True)
            return

        def report(referral: Referral) -> Iterable[Message]:
            if referral:
                self._answered = number
            return self._report(referral, client_id)

        yield Refer(text, number, True, client_id, report)

    def think(self, text: str, name: str | None, client_id: str | None) -> Iterator[Order]:
        """Gives the model something to speak about, if it takes that. Raises ProtocolError."""
        number = None if name is None else self._number(name)
        if self._takes_references:
            yield Refer(text, number, False, client_id, lambda referral: self._report(referral, client_id))

    def _number(self, name: str) -> int:
        numbers = range(1, self._latest + 1)
        number = next((one for one in reversed(numbers) if delegation_id(one) == name), None)
        if number is None:
            raise ProtocolError(f"there is no delegation {name[:60]!r}", "unknown_delegation")
        return number

    def _report(self, referral: Referral, client_id: str | None) -> Iterator[Message]:
        if not referral:
            message = f"this is not spoken: {referral.reason}"
            yield self._make("info", client_id, code=f"delegation_{referral.outcome}", message=message)
