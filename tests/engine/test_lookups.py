"""Looking something up in the middle of a call: who asks, who answers, and what the caller hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moshi_agent import (
    AskConfig,
    Event,
    InputError,
    ReferenceEnded,
    ReferenceWanted,
    Referral,
    SamplingConfig,
    SayFinished,
    Session,
    SessionConfig,
    TextToken,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import ReferenceKind
from moshi_agent.engine.snapshot import unpack_snapshot
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken
from tests.reference_models import PIECES, ROW_DIM, reference_checkpoint
from tests.text_tokenizers import shipped_tokenizer

VARIED = SamplingConfig(temp=1.0, temp_text=1.5, top_k_text=50)
ANSWER = "Your order is on its way."
KINDS: tuple[ReferenceKind, ...] = ("tokens", "rows")


@cache
def checkpoint_of(kind: ReferenceKind | None) -> Checkpoint:
    return reference_checkpoint(kind)


def encode(text: str) -> NDArray[np.float32]:
    """Rows of a text: four for each word, as a reference encoder has them."""
    rows = 4 * len(text.split())
    return np.random.default_rng(len(text)).normal(0, 3, (rows, ROW_DIM)).astype(np.float32)


def core_of(kind: ReferenceKind | None) -> SteppedCore:
    return SteppedCore(checkpoint_of(kind), reference_encoder=encode)


def config(asking: AskConfig | None = None, **more: Any) -> SessionConfig:
    fields = {"sampling": VARIED, "seed": 5, "live": False, "digital_silence": False}
    return SessionConfig(asking=asking, **(fields | more))


QUIET = AskConfig(by_model=False)


def go_on(core: SteppedCore, session: Session, frames: int, speech: bool = False) -> list[Event]:
    """What is told of so many frames, of the user's silence or of a voice."""
    one = SILENCE if not speech else voice()
    session.push(np.concatenate([one] * frames))
    core.settle()
    return taken(session)


@cache
def voice() -> NDArray[np.float32]:
    """A frame that the voice activity takes for speech."""
    time_s = np.arange(1920) / 24_000
    tone = sum(np.sin(2 * np.pi * 200 * harmonic * time_s) / harmonic for harmonic in range(1, 12))
    return (0.1 * tone).astype(np.float32)


def wanted(events: Sequence[Event]) -> list[ReferenceWanted]:
    return [event for event in events if isinstance(event, ReferenceWanted)]


def ended(events: Sequence[Event]) -> list[tuple[int, str]]:
    return [(event.id, event.reason) for event in events if isinstance(event, ReferenceEnded)]


def texts(events: Sequence[Event]) -> list[int]:
    return [event.frame for event in kinds_of(list(events), TextToken)]


def referred(core: SteppedCore, session: Session, text: str | None, for_id: int | None = None) -> Referral:
    reply = session.refer(text, for_id)
    core.settle()
    return reply.result(20)


# Asking


def asking_core(session_config: SessionConfig) -> tuple[SteppedCore, int]:
    """A core whose model asks by a token that this conversation has it write, and the frame of that."""
    core = core_of("tokens")
    written = kinds_of(go_on(core, core.session(session_config), 20), TextToken)
    asks = next(event for event in written if isinstance(event, TextToken) and event.frame >= 6)
    checkpoint = reference_checkpoint("tokens")
    assert checkpoint.lm is not None
    checkpoint.lm.config = replace(checkpoint.lm.config, reference_token_id=asks.token)
    return SteppedCore(checkpoint), asks.frame


def test_nothing_is_looked_up_unless_it_is_asked_for() -> None:
    """By default a model that asks is not heard, and its token is no word."""
    core, frame = asking_core(config())
    events = go_on(core, core.session(config()), frame + 5)
    assert not wanted(events)
    assert frame not in texts(events)


def test_a_model_asks_by_its_token_and_is_silent_until_it_is_answered() -> None:
    """Once, in the frame in which it writes the token, which begins no word."""
    asking = config(AskConfig(timeout_s=60.0))
    core, frame = asking_core(asking)
    session = core.session(asking)
    events = go_on(core, session, frame + 30)
    [asked] = wanted(events)
    assert (asked.id, asked.by, asked.frame) == (1, "model", frame)
    assert all(written < frame for written in texts(events))
    assert referred(core, session, ANSWER, asked.id) == Referral("taken")
    over = [event for event in taken(session) if isinstance(event, ReferenceEnded)]
    assert [(event.id, event.reason, event.text) for event in over] == [(1, "answered", ANSWER)]
    assert texts(go_on(core, session, 20))


def test_the_application_asks_and_the_next_request_supersedes() -> None:
    core = core_of("tokens")
    session = core.session(config(QUIET))
    go_on(core, session, 5)
    assert session.ask().result(1) == 1
    assert session.ask().result(1) == 2
    events = taken(session)
    assert [(one.id, one.by) for one in wanted(events)] == [(1, "application"), (2, "application")]
    assert ended(events) == [(1, "superseded")]
    assert referred(core, session, ANSWER, 1).outcome == "superseded"
    assert referred(core, session, ANSWER, 2).outcome == "taken"
    assert referred(core, session, ANSWER, 2).outcome == "late", "of two answers the first counts"
    with pytest.raises(InputError, match="request 7; this conversation has had 2"):
        referred(core, session, ANSWER, 7)


def test_who_goes_on_cancels_it() -> None:
    """A cough does not, and the bot is free again."""
    core = core_of("tokens")
    session = core.session(config(QUIET))
    go_on(core, session, 10)
    session.ask()
    assert not ended(go_on(core, session, 5))
    events = go_on(core, session, 12, speech=True)
    assert ended(events) == [(1, "interrupted")]
    assert referred(core, session, ANSWER, 1) == Referral("late", "request 1 is over: interrupted")
    assert texts(go_on(core, session, 20))


def test_the_time_is_limited_and_the_bot_then_free() -> None:
    core = core_of("tokens")
    session = core.session(config(replace(QUIET, timeout_s=20 * FRAME_S, apology="Sorry.")))
    go_on(core, session, 10)
    session.ask()
    taken(session)
    held = go_on(core, session, 19)
    assert len([frame for frame in texts(held) if frame > 18]) == 0 and not ended(held)
    events = go_on(core, session, 20)
    assert ended(events) == [(1, "timed_out")]
    assert [event.text for event in events if isinstance(event, SayFinished)] == ["Sorry."]
    assert referred(core, session, ANSWER, 1).outcome == "late"
    assert not any(ended(go_on(core, session, 5)))


def test_a_filler_is_said_once_where_the_answer_takes_its_time() -> None:
    core = core_of("tokens")
    asking = replace(QUIET, filler="One moment.", filler_after_s=5 * FRAME_S)
    quick, slow = core.session(config(asking)), core.session(config(asking))
    said: dict[str, list[str]] = {}
    for name, session, wait in (("quick", quick, 3), ("slow", slow, 40)):
        go_on(core, session, 3)
        session.ask()
        events = go_on(core, session, wait)
        assert referred(core, session, ANSWER).outcome == "taken"
        events += go_on(core, session, 20)
        said[name] = [event.text for event in events if isinstance(event, SayFinished)]
    assert said == {"quick": [], "slow": ["One moment."]}


# Answering


def test_a_checkpoint_without_references_names_say() -> None:
    core = core_of(None)
    session = core.session(config(QUIET))
    session.ask()
    taken(session)
    referral = referred(core, session, ANSWER)
    assert referral.outcome == "refused" and "Session.say" in referral.reason
    assert ended(taken(session)) == [(1, "failed")]
    assert texts(go_on(core, session, 20)), "the bot is free again"


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_what_was_found_can_be_said_as_it_is(kind: ReferenceKind | None) -> None:
    core = core_of(kind)
    session = core.session(config(QUIET, references="say"))
    go_on(core, session, 3)
    session.ask()
    go_on(core, session, 12)
    assert referred(core, session, ANSWER).outcome == "taken"
    events = go_on(core, session, 60)
    assert [event.text for event in events if isinstance(event, SayFinished)] == [ANSWER]
    first = kinds_of(events, TextToken)[0]
    assert isinstance(first, TextToken) and first.text.strip() and ANSWER.startswith(first.text.strip())


def test_nothing_found_releases_the_bot_and_is_told() -> None:
    core = core_of("tokens")
    for nothing in (None, "", " \n"):
        session = core.session(config(replace(QUIET, apology="Sorry.")))
        session.ask()
        assert referred(core, session, nothing).outcome == "taken"
        events = go_on(core, session, 40)
        assert ended(events) == [(1, "failed")]
        assert [event.text for event in events if isinstance(event, SayFinished)] == ["Sorry."]
        session.close()


def test_another_language_is_refused_by_itself() -> None:
    core = core_of("tokens")
    session = core.session(config(QUIET))
    session.ask()
    referral = referred(core, session, "\u4f60\u597d")
    assert referral.outcome == "refused" and "no pieces for it" in referral.reason
    assert session.is_open and len(go_on(core, session, 5)) >= 5


def test_an_essay_ends_with_a_sentence() -> None:
    core = core_of("tokens")
    session = core.session(config(replace(QUIET, most_words=10)))
    essay = "One two three four. Five six seven. Eight nine ten eleven twelve. " * 400
    assert referred(core, session, essay).outcome == "taken"
    queue = unpack_snapshot(_saved(core, session)).call["lookups"]["queue"]
    assert shipped_tokenizer().decode(queue[1:]) == "One two three four. Five six seven."


def test_what_is_no_text_is_refused() -> None:
    session = core_of("tokens").session(config(QUIET))
    with pytest.raises(InputError, match="type int"):
        session.refer(5)  # type: ignore[arg-type]


# Getting in


def test_a_reference_begins_with_the_initial_token_and_goes_on_one_a_frame() -> None:
    core = core_of("tokens")
    session = core.session(config())
    pieces = [piece for word in ANSWER.split() for piece in shipped_tokenizer().encode(word)]
    given: list[object] = []
    launch = core.step.launch
    core.step.launch = lambda inputs: (given.extend(one.reference for one in inputs), launch(inputs))[1]  # type: ignore[method-assign]
    go_on(core, session, 3)
    assert referred(core, session, ANSWER).outcome == "taken"
    go_on(core, session, len(pieces) + 5)
    assert given[-len(pieces) - 5 :] == [PIECES, *pieces, None, None, None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_reference_takes_the_place_of_an_older_one(kind: ReferenceKind) -> None:
    """Whole: what is left of the older one never comes."""
    core = core_of(kind)
    once, twice = core.session(config()), core.session(config())
    for session in (once, twice):
        go_on(core, session, 3)
    assert referred(core, twice, "This is what nobody wants to know any more.").outcome == "taken"
    assert referred(core, twice, ANSWER).outcome == "taken"
    assert referred(core, once, ANSWER).outcome == "taken"
    assert np.array_equal(audio_of(go_on(core, once, 30)), audio_of(go_on(core, twice, 30)))


@pytest.mark.parametrize("kind", KINDS)
def test_who_looks_something_up_changes_nothing_for_others(kind: ReferenceKind) -> None:
    """Neighbours that hold, ask, are answered and leave: the same samples to the bit as alone."""
    alone = core_of(kind)
    session = alone.session(config())
    expected = np.concatenate([audio_of(go_on(alone, session, frames)) for frames in (4, 8, 20)])
    core = core_of(kind)
    others = [core.session(config(replace(QUIET, filler="Wait."), seed=seed)) for seed in (1, 2, 3)]
    bystander = core.session(config())
    heard = [go_on(core, bystander, 4)]
    for other in others:
        go_on(core, other, 3)
    others[0].ask()
    others[1].hold(30.0)
    others[2].ask()
    heard.append(_together(core, bystander, others, 8))
    assert referred(core, others[0], ANSWER).outcome == "taken"
    others[1].close()
    heard.append(_together(core, bystander, [others[0], others[2]], 20))
    assert np.array_equal(np.concatenate([audio_of(events) for events in heard]), expected)


def _together(core: SteppedCore, one: Session, others: Sequence[Session], frames: int) -> list[Event]:
    for session in (one, *others):
        session.push(np.concatenate([SILENCE] * frames))
    core.settle()
    return taken(one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_matters(kind: ReferenceKind) -> None:
    core = core_of(kind)
    given, free = core.session(config()), core.session(config())
    assert referred(core, given, ANSWER).outcome == "taken"
    assert not np.array_equal(audio_of(go_on(core, given, 20)), audio_of(go_on(core, free, 20)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answered", [False, True], ids=["while it waits", "in its midst"])
def test_a_conversation_goes_on_elsewhere_in_the_midst_of_a_look_up(
    kind: ReferenceKind, answered: bool
) -> None:
    """With what is left of the reference; one who waits for an answer is told of the request again."""
    here, there = core_of(kind), core_of(kind)
    asking = replace(QUIET, filler="One moment.")
    session = here.session(config(asking))
    go_on(here, session, 4)
    session.ask()
    if answered:
        assert referred(here, session, ANSWER).outcome == "taken"
    go_on(here, session, 3)
    saved = _saved(here, session)
    copy = there.session(config(asking), resume=saved)
    assert copy.transcript.turns == session.transcript.turns
    heard: list[NDArray[np.float32]] = []
    for core, one in ((here, session), (there, copy)):
        events = go_on(core, one, 10)
        if not answered:
            assert [event.id for event in wanted(events)] == ([1] if one is copy else [])
            assert referred(core, one, ANSWER, 1).outcome == "taken"
        heard.append(audio_of([*events, *go_on(core, one, 20)]))
    assert np.array_equal(*heard)


def _saved(core: SteppedCore, session: Session) -> bytes:
    reply = session.take_snapshot()
    core.settle()
    return reply.result(20)


@pytest.mark.parametrize(
    "queue", [[-1], [PIECES + 1], ["a"], [10**30], [[1]]], ids=["below", "above", "text", "huge", "nested"]
)
def test_a_damaged_reference_is_refused(queue: list[Any]) -> None:
    from moshi_agent.engine.snapshot import pack_snapshot

    core = core_of("tokens")
    session = core.session(config())
    referred(core, session, ANSWER)
    snapshot = unpack_snapshot(_saved(core, session))
    snapshot.call["lookups"]["queue"] = queue
    with pytest.raises(InputError, match="damaged"):
        core.session(config(), resume=pack_snapshot(snapshot))
