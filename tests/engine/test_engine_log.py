"""What the engine logs: which conversation, how many are live, why it ends; in the message and in `extra`."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.process.child import _LogSender
from moshi_agent.engine.process.messages import Logged
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore
from tests.engine.test_faults import fail_once


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "moshi_agent.engine")
    return caplog


def facts(record: logging.LogRecord, *names: str) -> dict[str, Any]:
    return {name: vars(record)[name] for name in names}


def test_a_conversation_begins_and_ends_with_a_line(core: SteppedCore, log: pytest.LogCaptureFixture) -> None:
    first, second = core.session(), core.session()
    for _ in range(5):
        second.push(SILENCE)
        core.wait(FRAME_S)
    second.close()
    core.settle()
    opened, _, ended = log.records
    assert opened.getMessage() == f"session {first.key} opened, 1 live"
    assert facts(opened, "session", "live") == {"session": first.key, "live": 1}
    assert ended.getMessage() == f"session {second.key} ended after 0.4 s: closed, 1 live"
    assert facts(ended, "session", "seconds", "reason", "error", "live") == {
        "session": second.key,
        "seconds": pytest.approx(0.4),
        "reason": "closed",
        "error": None,
        "live": 1,
    }


def test_a_step_that_fails_says_what_failed_and_who_is_lost(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    sessions = [core.session(), core.session()]
    fail_once(core, monkeypatch)
    sessions[0].push(SILENCE)
    core.wait(2 * FRAME_S)
    (failed,) = [record for record in log.records if record.levelname == "ERROR"]
    assert failed.getMessage() == (
        "the frame step failed, 1 of 3 in a row: out of memory; 2 conversations lost"
    )
    assert facts(failed, "failures", "live") == {"failures": 1, "live": 2}
    ends = [record.getMessage() for record in log.records if "ended" in record.getMessage()]
    assert len(ends) == 2
    assert all("error, the frame step failed: out of memory" in end for end in ends)


def test_a_conversation_that_breaks_alone_says_which(
    checkpoint: Checkpoint, log: pytest.LogCaptureFixture
) -> None:
    core = SteppedCore(checkpoint, capacity=2)
    neighbour, broken = core.session(), core.session()
    core.wait(FRAME_S)
    core.step.state.lm.temporal.kv[1] = float("nan")  # its row
    broken.push(SILENCE)
    core.wait(3 * FRAME_S)
    (failed,) = [record for record in log.records if record.levelname == "ERROR"]
    assert failed.getMessage() == f"session {broken.key}: the model's output is not a number any more"
    assert vars(failed)["session"] == broken.key
    assert neighbour.is_open


def test_a_record_of_the_engines_process_keeps_its_facts_and_its_traceback() -> None:
    sent: list[Logged] = []

    class Channel:
        def send(self, message: Logged) -> None:
            sent.append(message)

    logger = logging.Logger("moshi_agent.test")
    channel: Any = Channel()
    logger.addHandler(_LogSender(channel))
    try:
        raise ValueError("no luck")
    except ValueError:
        logger.exception("session %d failed", 7, extra={"session": 7})
    (logged,) = sent
    assert logged.record.getMessage() == "session 7 failed"
    assert vars(logged.record)["session"] == 7
    assert (logged.record.exc_text or "").endswith("ValueError: no luck")
    assert logging.Formatter("%(message)s").format(logged.record).endswith("ValueError: no luck")
