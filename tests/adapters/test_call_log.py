"""The line about the end of a call: who, how long, why; one line whatever the client has put into it."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from moshi_agent_adapters.call_log import CallLog


def test_the_line_has_the_facts_and_so_has_the_record() -> None:
    log = CallLog(over="kyutai", session=7, began_at=time.monotonic() - 12.3)
    line, facts = log.ended("idle, no message within 30 s")
    assert line == "call ended after 12.3 s (kyutai, session 7): idle, no message within 30 s"
    assert facts.pop("seconds") >= 12.3
    assert facts == {"over": "kyutai", "session": 7, "reason": "idle, no message within 30 s"}


def test_a_call_without_a_session_has_none() -> None:
    line, facts = CallLog(over="webrtc").ended("refused, no row is free")
    assert line == "call ended after 0.0 s (webrtc): refused, no row is free"
    assert "session" not in facts


@given(st.text())
def test_it_is_one_line(reason: str) -> None:
    line, _ = CallLog(over="gpt-live").ended(reason)
    assert line.isprintable()
    assert len(line.splitlines()) == 1
