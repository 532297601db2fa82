"""What the phone agent looks up, with a real database and a language model behind a real socket."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("openai", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from moshi_agent import ReferenceWanted
from moshi_agent.events import Turn

EXAMPLE = Path(__file__).parents[2] / "examples" / "order_desk.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example as a module: it is part of a program and belongs to no package."""
    spec = importlib.util.spec_from_file_location("order_desk", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def desk(example: ModuleType, tmp_path: Path) -> Iterator[Any]:
    desk = example.OrderDesk(tmp_path / "orders.db")
    yield desk
    desk.close()


def wanted(question: str) -> ReferenceWanted:
    turns = (Turn(speaker="user", text=question, start=1.0, end=2.0),) if question else ()
    return ReferenceWanted(frame=30, media_s=2.4, wall_s=0.0, id=1, by="model", turns=turns)


@pytest.mark.parametrize(
    ("phone", "question", "found", "outcome"),
    [
        ("+15550000001", "Where is my order?", "Your order will arrive on Friday.", "answered"),
        ("+15550000002", "", "Your order has arrived.", "answered"),
        ("+15550000003", "My order, where is it?", "Your order is late, I am sorry.", "answered"),
        ("+15559999999", "Where is my order?", "I cannot find your order.", "not found"),
        ("'; DROP TABLE orders; --", "Where is my order?", "I cannot find your order.", "not found"),
        ("+15550000001", "What does the soup cost?", None, "hung up"),
    ],
)
def test_orders_are_found_by_the_callers_number(
    example: ModuleType, desk: Any, phone: str, question: str, found: str | None, outcome: str
) -> None:
    record = example.CallRecord(call_sid="CA1", phone=phone)
    assert asyncio.run(example.answer_by_rule(desk, record, wanted(question))) == found
    assert record.outcome == outcome


def test_a_call_is_kept_with_what_was_said_in_it(example: ModuleType, tmp_path: Path) -> None:
    async def one_call(desk: Any) -> str | None:
        record = example.CallRecord(call_sid="CA1", phone="+15550000001")
        await desk.begin_call("CA1", record.phone)
        assert await desk.outcome("CA1") == "open"
        await example.answer_by_rule(desk, record, wanted("Where is my order?"))
        await desk.end_call(record, wanted("Where is my order?").turns)
        return await desk.outcome("CA1")

    desk = example.OrderDesk(tmp_path / "orders.db")
    assert asyncio.run(one_call(desk)) == "answered"
    desk.close()
    again = example.OrderDesk(tmp_path / "orders.db")  # what is there already stays
    (row,) = asyncio.run(again._run("SELECT looked_up, transcript FROM calls"))
    again.close()
    assert json.loads(row[0])[0]["found"] == "Your order will arrive on Friday."
    assert json.loads(row[1]) == [{"speaker": "user", "text": "Where is my order?", "start_s": 1.0}]


@pytest.mark.parametrize(("has_person", "said"), [(True, "Please wait a moment."), (False, None)])
def test_a_person_is_asked_for(example: ModuleType, desk: Any, has_person: bool, said: str | None) -> None:
    record = example.CallRecord(call_sid="CA1", phone="+15550000001", can_hand_over=has_person)
    assert asyncio.run(example.answer_by_rule(desk, record, wanted("I want to speak to a person"))) == said
    assert record.outcome == ("handed over" if has_person else "hung up")


class Backend(BaseHTTPRequestHandler):
    """Calls the tool that the caller's words name, and repeats what it says."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = request["messages"][-1]
        if last["role"] == "tool":
            message: dict[str, Any] = {"role": "assistant", "content": last["content"]}
        else:
            tool = "hand_over" if "person" in last["content"] else "find_order"
            call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": "{}"}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def backend_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("question", "said", "outcome"),
    [
        ("Where is my lamp?", "Your order will arrive on Friday.", "answered"),
        ("I want a person.", "Please wait a moment.", "handed over"),
    ],
)
def test_a_language_model_has_the_same_tools(
    example: ModuleType, desk: Any, backend_url: str, question: str, said: str, outcome: str
) -> None:
    record = example.CallRecord(call_sid="CA1", phone="+15550000001", can_hand_over=True)
    model = example.LanguageModel(desk, "m", backend_url, "none")
    answer = asyncio.run(model.answer(record, wanted(question)))
    assert answer is not None and answer.endswith(said)
    assert record.outcome == outcome
