"""What the phone agent does for its callers: it knows their orders, and keeps how their calls went.

`OrderDesk` is the database. `answer_by_rule` and `LanguageModel` look something up in it for a call: the
first understands one question, the second what a language model at an OpenAI-compatible address understands.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from moshi_agent import ReferenceWanted
from moshi_agent.events import Turn

SCHEMA = Path(__file__).with_name("orders.sql")
NO_ORDER = "I cannot find your order."
HAND_OVER = "Please wait a moment."
MOST_ROUNDS = 4  # of tools, for one answer
INSTRUCTIONS = (
    "You answer callers of a shop on the telephone. Use the tools. Answer with one short sentence that is "
    "read aloud as it is: plain English, numbers as words, no lists. If the caller wants a person, hand over."
)


class OrderDesk:
    """The orders of a shop in SQLite, and a record of every call.

    Args:
        path: of the database; one that is missing is made, with three customers to try.
    """

    def __init__(self, path: Path) -> None:
        is_new = not path.exists()
        # Each call uses it from threads of the event loop's pool, one at a time.
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = asyncio.Lock()
        if is_new:
            self._database.executescript(SCHEMA.read_text(encoding="utf-8"))

    async def find_order(self, phone: str) -> str:
        """Tells in a sentence where the newest order of a caller is."""
        rows = await self._run(
            "SELECT state, arrives_on FROM orders WHERE phone = ? ORDER BY number DESC LIMIT 1", phone
        )
        match rows:
            case [("sent", None)]:
                return "Your order is on its way."
            case [("sent", weekday)]:
                return f"Your order will arrive on {weekday}."
            case [("arrived", _)]:
                return "Your order has arrived."
            case [("late", _)]:
                return "Your order is late, I am sorry."
            case _:
                return NO_ORDER

    async def begin_call(self, call_sid: str, phone: str) -> None:
        """Notes that a call has begun; one that comes back after its stream broke goes on."""
        await self._run(
            "INSERT OR IGNORE INTO calls (call_sid, phone, began_at) VALUES (?, ?, datetime('now'))",
            *(call_sid, phone),
        )

    async def end_call(self, record: CallRecord, turns: Iterable[Turn]) -> None:
        """Notes how a call went, and what was said in it."""
        said = [
            {"speaker": turn.speaker, "text": turn.text, "start_s": round(turn.start, 2)} for turn in turns
        ]
        await self._run(
            "UPDATE calls SET seconds = ?, outcome = ?, looked_up = ?, transcript = ? WHERE call_sid = ?",
            round(time.monotonic() - record.began, 1),
            record.outcome,
            json.dumps([asdict(one) for one in record.looked_up]),
            json.dumps(said),
            record.call_sid,
        )

    async def outcome(self, call_sid: str) -> str | None:
        """Returns how a call went, None for one that nobody knows."""
        rows = await self._run("SELECT outcome FROM calls WHERE call_sid = ?", call_sid)
        return rows[0][0] if rows else None

    async def _run(self, statement: str, *values: object) -> list[Any]:
        async with self._lock:
            return await asyncio.to_thread(lambda: self._database.execute(statement, values).fetchall())

    def close(self) -> None:
        """Closes the database."""
        self._database.close()


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """A question of a caller, as far as it was understood, and what was found."""

    question: str
    found: str


@dataclass(kw_only=True)
class CallRecord:
    """How one call goes."""

    call_sid: str
    phone: str
    began: float = field(default_factory=time.monotonic)  # on the monotonic clock
    looked_up: list[LookedUp] = field(default_factory=list[LookedUp])
    can_hand_over: bool = False  # there is a person to take over
    was_handed_over: bool = False

    @property
    def outcome(self) -> str:
        """Tells it in a word or two, for the database."""
        if self.was_handed_over:
            return "handed over"
        if not self.looked_up:
            return "hung up"
        return "not found" if self.looked_up[-1].found == NO_ORDER else "answered"

    def hand_over(self) -> bool:
        """Hands the call over, once the bot has said so; returns whether there is somebody."""
        self.was_handed_over = self.can_hand_over
        return self.can_hand_over

    def note(self, question: str, found: str) -> str:
        """Notes something that was looked up, and returns what was found."""
        self.looked_up.append(LookedUp(question=question, found=found))
        return found


async def answer_by_rule(desk: OrderDesk, record: CallRecord, wanted: ReferenceWanted) -> str | None:
    """Answers what callers of this shop ask, without a language model.

    The built-in model asks for ten things; where nobody has written down which, it is taken for the order.
    """
    question = wanted.question.lower()
    if "person" in question and record.hand_over():
        return record.note(question, HAND_OVER)
    if question and "order" not in question:
        return None
    return record.note(question, await desk.find_order(record.phone))


class LanguageModel:
    """Has a language model answer, with the desk's tools.

    Args:
        desk: what the tools look into.
        model: its name there.
        url: an OpenAI-compatible address; OPENAI_API_KEY is its key.
    """

    def __init__(self, desk: OrderDesk, model: str, url: str, api_key: str) -> None:
        self._desk, self._model = desk, model
        self._client = AsyncOpenAI(base_url=url, api_key=api_key)

    async def answer(self, record: CallRecord, wanted: ReferenceWanted) -> str | None:
        """Returns a sentence, or None where the model has none."""
        messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, *map(_message, wanted.turns)]
        for _ in range(MOST_ROUNDS):
            completion = await self._client.chat.completions.create(
                model=self._model, messages=messages, tools=TOOLS
            )
            reply = completion.choices[0].message
            if not reply.tool_calls:
                return record.note(wanted.question, reply.content) if reply.content else None
            messages.append(reply)
            for call in reply.tool_calls:
                name = call.function.name if call.type == "function" else call.type
                result = await self._use(name, record)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return None

    async def _use(self, tool: str, record: CallRecord) -> str:
        if tool == "find_order":
            return await self._desk.find_order(record.phone)
        if tool == "hand_over":
            if not record.hand_over():
                return "There is nobody."
            return f"The caller is connected now. Say exactly: {HAND_OVER}"
        return f"There is no tool {tool!r}."


def _message(turn: Turn) -> dict[str, str]:
    return {"role": "user" if turn.speaker == "user" else "assistant", "content": turn.text}


def _tool(name: str, description: str) -> Any:
    parameters = {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS = [
    _tool("find_order", "Where the caller's newest order is."),
    _tool("hand_over", "Connects the caller to a person."),
]
