"""A model that is told ahead: beside its streams it reads the next piece of what it is to say."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
import torch

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.session import Session
from moshi_agent.engine.snapshot import unpack_snapshot
from moshi_agent.events import Event, TextToken
from moshi_agent.text.pieces import pieces_of
from tests.engine.stepped_core import SILENCE, SteppedCore, audio_of, kinds_of, taken
from tests.reference_models import reference_checkpoint

SENTENCE = "Your order is on its way."
CALL = SessionConfig(seed=3, live=False)
PADDING = 3
CONTEXT = 80  # frames, more than any call here


def told_ahead(with_table: bool = True) -> Checkpoint:
    """A model with random weights."""
    checkpoint = reference_checkpoint("tokens", CONTEXT)
    lm = checkpoint.lm
    assert lm is not None and lm.oracle_emb is not None
    lm.is_told_ahead = True
    if not with_table:
        with torch.no_grad():
            lm.oracle_emb.weight.zero_()
    return checkpoint


def go_on(core: SteppedCore, session: Session, frames: int) -> list[Event]:
    for _ in range(frames):
        session.push(SILENCE)
    core.settle()
    return taken(session)


def tokens_of(events: list[Event]) -> list[int]:
    return [event.token for event in kinds_of(events, TextToken)]  # pyright: ignore[reportAttributeAccessIssue]


def test_it_reads_every_piece_until_it_has_written_it() -> None:
    """And nothing before and after the sentence."""
    core = SteppedCore(told_ahead())
    session = core.session(CALL)
    go_on(core, session, 5)
    session.say(SENTENCE)
    written = [token for token in tokens_of(go_on(core, session, 60)) if token != PADDING]
    pieces = pieces_of(core.references._tokenizer, SENTENCE)  # pyright: ignore[reportPrivateUsage]
    read = unpack_snapshot(session.take_snapshot(compact=True).result(20)).row.side.references
    steps = sorted(read)
    assert steps == list(range(steps[0], steps[-1] + 1)) and len(pieces) <= len(steps) < 60
    assert [piece for piece, _ in groupby(read[step] for step in steps)] == pieces
    assert any(written[at : at + len(pieces)] == pieces for at in range(len(written)))


def test_where_it_is_told_nothing_it_is_what_it_was() -> None:
    """Bit for bit as without the table; told the same sentence, it does not sound the same."""
    sounds: list[np.ndarray] = []
    for with_table in (True, False):
        core = SteppedCore(told_ahead(with_table))
        session = core.session(CALL)
        sounds.append(audio_of(go_on(core, session, 12)))
        session.say(SENTENCE, at_once=True)
        sounds.append(audio_of(go_on(core, session, 30)))
    assert len(sounds[0]) == 12 * len(SILENCE) and np.array_equal(sounds[0], sounds[2])
    assert not np.array_equal(sounds[1], sounds[3])


@pytest.mark.parametrize("is_compact", [False, True], ids=["whole", "compact"])
def test_a_sentence_goes_on_elsewhere(is_compact: bool) -> None:
    here, there = SteppedCore(told_ahead()), SteppedCore(told_ahead())
    session = here.session(CALL)
    session.say(SENTENCE, at_once=True)
    assert tokens_of(go_on(here, session, 4))
    saved = session.take_snapshot(compact=is_compact).result(20)
    copy = there.session(SessionConfig(live=False), resume=saved)
    stayed, moved = go_on(here, session, 30), go_on(there, copy, 30)
    assert tokens_of(stayed) == tokens_of(moved)
    np.testing.assert_allclose(audio_of(stayed), audio_of(moved), rtol=0, atol=1e-4)


def test_it_takes_no_references() -> None:
    """What was found is said; to speak about it, it has not learnt."""
    core = SteppedCore(told_ahead())
    session = core.session(CALL)
    outcome = session.refer("Your order is late.")
    core.settle()
    assert outcome.result(20).outcome == "refused" and "Session.say" in outcome.result(20).reason
    said = session.refer("Your order is late.", as_sentence=True)
    core.settle()
    assert said.result(20).outcome == "taken"
    pieces = pieces_of(core.references._tokenizer, "Your order is late.")  # pyright: ignore[reportPrivateUsage]
    written = [token for token in tokens_of(go_on(core, session, 60)) if token in pieces]
    assert written[: len(pieces)] == pieces
