"""JSON lines of the log: what every record has, the facts of each, and nothing that is no JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moshi_agent_adapters.server.log_format import JsonFormatter


def written(message: str, *arguments: object, **options: Any) -> dict[str, Any]:
    """A record as the formatter writes it, read again."""
    record = logging.getLogger("moshi_agent.test").makeRecord(
        "moshi_agent.test",
        logging.INFO,
        __file__,
        1,
        message,
        arguments,
        options.pop("exc_info", None),
        **options,
    )
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    return json.loads(line)


def test_a_line_has_time_level_logger_message_and_the_extras() -> None:
    line = written("session %d opened, %d live", 7, 3, extra={"session": 7, "live": 3})
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {
        "level": "INFO",
        "logger": "moshi_agent.test",
        "message": "session 7 opened, 3 live",
        "session": 7,
        "live": 3,
    }


def test_an_exception_comes_with_its_traceback_beside_the_message() -> None:
    try:
        raise ValueError("no luck")
    except ValueError:
        line = written("it failed", exc_info=sys.exc_info())
    assert line["message"] == "it failed"
    assert line["exception"].endswith("ValueError: no luck")


def test_facts_that_are_no_json_are_text_and_take_no_place_of_others() -> None:
    line = written("saved", extra={"file": Path("a.wav"), "level": "mine", "color_message": "\x1b[1msaved"})
    assert line["file"] == "a.wav"
    assert line["level"] == "INFO"
    assert "color_message" not in line  # uvicorn's, for terminals


@given(st.text(st.characters()), st.dictionaries(st.text("xyz", min_size=2), st.text() | st.floats(0, 1)))
def test_whatever_is_said_it_is_one_line_of_json(message: str, extra: dict[str, Any]) -> None:
    line = written("%s", message, extra=extra)
    assert line["message"] == message
    assert extra.items() <= line.items()
