"""A recogniser beside the model writes down what users say, and the conversations are as they are without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moshi_agent import (
    AudioChunk,
    ConfigError,
    Engine,
    Event,
    Prompt,
    Session,
    SessionConfig,
    UserPaused,
    UserSaid,
    UserText,
    UserWord,
    load_checkpoint,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.step.recogniser_step import RecogniserStep
from moshi_agent.transcription import TimedPiece, Transcriber
from tests.engine.calling_device import CallingDevice
from tests.engine.stepped_core import SILENCE, SteppedCore, taken
from tests.recogniser_model import write_recogniser_checkpoint

OF_THE_USER = (UserText, UserWord, UserSaid, UserPaused)
FRAMES = 30
# Whole frames of silence first, so that the offline transcript has its frames at the same places.
STT = {"stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.32}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recogniser_checkpoint(tmp_path_factory.mktemp("stt"), STT)


@pytest.fixture(scope="module")
def recogniser(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, pack="auto")


def noise(seed: int) -> NDArray[np.float32]:
    """[frames, 1920]"""
    return np.random.default_rng(seed).normal(0, 0.1, (FRAMES, 1920)).astype(np.float32)


def offline(recogniser: Checkpoint, heard: NDArray[np.float32]) -> list[TimedPiece]:
    """The pieces that are known when the last of the frames has been heard."""
    transcriber = Transcriber(recogniser)
    transcriber.push(heard[0, :0])  # what random weights write in the silence before them
    return [part for part in transcriber.push(heard.reshape(-1)) if isinstance(part, TimedPiece)]


def pieces(events: list[Event]) -> list[TimedPiece]:
    return [TimedPiece(event.text, event.start) for event in events if isinstance(event, UserText)]


def timeless(events: list[Event]) -> list[Event]:
    return [replace(event, wall_s=0.0) for event in events if isinstance(event, OF_THE_USER)]


def test_the_users_words_are_those_of_the_offline_transcript(
    small_checkpoint: Checkpoint, recogniser: Checkpoint
) -> None:
    core = SteppedCore(small_checkpoint, recogniser=recogniser)
    session = core.session(SessionConfig(seed=1, live=False))
    session.push(noise(0).reshape(-1))
    core.settle()
    events = taken(session)
    expected = offline(recogniser, noise(0))
    assert len(expected) > 10
    # As precise as a word's place: what clamps at the beginning does so in both.
    assert [piece.text for piece in pieces(events)] == [piece.text for piece in expected]
    assert [piece.start for piece in pieces(events)] == pytest.approx([piece.start for piece in expected])
    words = [event.text for event in events if isinstance(event, UserWord)]
    assert "".join(piece.text for piece in expected).split()[: len(words)] == words


def test_the_conversation_is_the_same_with_a_recogniser_and_without(
    small_checkpoint: Checkpoint, recogniser: Checkpoint
) -> None:
    told = []
    for one in (None, recogniser):
        core = SteppedCore(small_checkpoint, recogniser=one)
        session = core.session(SessionConfig(seed=1, live=False, digital_silence=False))
        session.push(noise(0).reshape(-1))
        core.settle()
        events = [event for event in taken(session) if not isinstance(event, OF_THE_USER)]
        told.append(
            (
                [repr(replace(event, wall_s=0.0)) for event in events],
                [event.pcm.tobytes() for event in events if isinstance(event, AudioChunk)],
            )
        )
    assert told[0] == told[1]
    assert len(told[0][1]) == FRAMES


def test_users_who_come_and_go_do_not_disturb_each_other(
    small_checkpoint: Checkpoint, recogniser: Checkpoint
) -> None:
    """Rows move into gaps, and steps are of different rows each time."""
    core = SteppedCore(small_checkpoint, recogniser=recogniser)
    sessions: dict[int, Session] = {}
    events: dict[int, list[Event]] = {number: [] for number in range(4)}
    for time in range(FRAMES + 9):
        for number in range(4):
            if time == 3 * number:
                sessions[number] = core.session(SessionConfig(seed=number, live=False))
            frame = time - 3 * number
            if 0 <= frame < FRAMES and number in sessions:
                sessions[number].push(noise(number)[frame])
        core.settle()
        for number, session in sessions.items():
            events[number] += taken(session)
        if time == 14:  # the first row's leaves, and the last one takes its place
            sessions.pop(0).close()
    for number in (1, 2, 3):
        texts = [piece.text for piece in pieces(events[number])]
        assert texts == [piece.text for piece in offline(recogniser, noise(number))]


def test_a_prompt_is_not_what_the_user_says(small_checkpoint: Checkpoint, recogniser: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, recogniser=recogniser)
    prompt = Prompt(np.full((5, 5), 7))
    for _ in range(2):  # computed, and then copied
        session = core.session(SessionConfig(seed=1, live=False, prompt=prompt))
        session.push(noise(0).reshape(-1))
        core.settle()
        texts = [piece.text for piece in pieces(taken(session))]
        assert texts == [piece.text for piece in offline(recogniser, noise(0))]


@pytest.mark.parametrize("compact", [False, True])
def test_a_transcript_goes_on_elsewhere(
    small_checkpoint: Checkpoint, recogniser: Checkpoint, compact: bool
) -> None:
    here, there = (SteppedCore(small_checkpoint, recogniser=recogniser) for _ in range(2))
    there.session()
    session = here.session(SessionConfig(seed=1, live=False))
    heard = 8 if compact else 17  # frames; the recogniser's context is 16 steps
    session.push(noise(0)[:heard].reshape(-1))
    here.settle()
    taken(session)
    saved = session.take_snapshot(compact=compact).result(20)
    resumed = there.session(SessionConfig(live=False), resume=saved)
    rest = {}
    for name, core, one in (("here", here, session), ("there", there, resumed)):
        one.push(noise(0)[heard:].reshape(-1))
        core.settle()
        rest[name] = timeless(taken(one))
    assert rest["here"] == rest["there"]
    assert len(rest["here"]) > 10


def test_a_conversation_goes_on_where_nobody_listens_and_back(
    small_checkpoint: Checkpoint, recogniser: Checkpoint
) -> None:
    plain, listening = SteppedCore(small_checkpoint), SteppedCore(small_checkpoint, recogniser=recogniser)
    session = listening.session(SessionConfig(seed=1, live=False))
    session.push(noise(0)[:5].reshape(-1))
    listening.settle()
    there = plain.session(SessionConfig(live=False), resume=session.take_snapshot().result(20))
    there.push(noise(0)[5:10].reshape(-1))
    plain.settle()
    assert timeless(taken(there)) == []
    back = listening.session(SessionConfig(live=False), resume=there.take_snapshot().result(20))
    back.push(noise(0)[10:].reshape(-1))
    listening.settle()
    assert pieces(taken(back))


def test_a_conversation_may_go_without(small_checkpoint: Checkpoint, recogniser: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, recogniser=recogniser)
    session = core.session(SessionConfig(seed=1, live=False, transcribe=False))
    session.push(noise(0).reshape(-1))
    core.settle()
    assert timeless(taken(session)) == []
    assert core.core.metrics.snapshot().listening_s.count == 0


def test_a_refreshed_model_does_not_interrupt_the_transcript(
    small_checkpoint: Checkpoint, recogniser: Checkpoint
) -> None:
    """The small model's context is full after 8 frames, and it begins anew in every silence."""
    core = SteppedCore(replace(small_checkpoint, tokenizer=None), recogniser=recogniser)
    config = SessionConfig(seed=1, live=False, refresh=True, silence_floor_dbfs=100.0)
    session = core.session(config)
    session.push(np.tile(SILENCE, FRAMES))
    core.settle()
    events = taken(session)
    assert any(type(event).__name__ == "ContextRefreshed" for event in events)
    silence = np.zeros((FRAMES, 1920), np.float32)
    texts = [piece.text for piece in pieces(events)]
    assert texts == [piece.text for piece in offline(recogniser, silence)]


@pytest.mark.parametrize("captured", [False, True])
def test_numbers_that_are_none_begin_the_row_anew(
    small_checkpoint: Checkpoint, recogniser: Checkpoint, captured: bool
) -> None:
    """From the next frame on, what is written down is that of a user who has just begun."""
    core = SteppedCore(small_checkpoint, recogniser=recogniser, graphs=captured and CallingDevice())
    session, neighbour = core.session(SessionConfig(live=False)), core.session(SessionConfig(live=False))
    assert core.recogniser is not None
    for tensor in core.recogniser._step.state.tensors():
        if tensor.is_floating_point():
            tensor[0] = torch.nan
    for one in (session, neighbour):
        one.push(noise(1)[0])
        one.push(noise(0).reshape(-1))
        core.settle()
    fresh = [piece.text for piece in offline(recogniser, noise(0))]
    heard = [piece.text for piece in pieces(taken(session))]
    assert heard[-len(fresh) :] == fresh and len(fresh) > 10
    both = np.concatenate([noise(1)[:1], noise(0)])
    assert [p.text for p in pieces(taken(neighbour))] == [p.text for p in offline(recogniser, both)]


@pytest.fixture(scope="module", params=[False, True], ids=["in_this_process", "in_its_own"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    options = {"transcriber": str(folder), "process": request.param, "shared": False}
    with Engine.load("tiny", device="cpu", capacity=2, admit_by_time=False, **options) as engine:
        yield engine


def test_an_engine_tells_what_is_said_and_what_it_costs(engine: Engine, recogniser: Checkpoint) -> None:
    with engine.session(SessionConfig(seed=1, live=False, tail_ms=1500)) as session:
        session.push(noise(0).reshape(-1))
        session.finish()
        events = list(session)
    assert [p.text for p in pieces(events)][:10] == [p.text for p in offline(recogniser, noise(0))][:10]
    assert any(isinstance(event, UserSaid) for event in events)
    assert engine.model.transcriber == engine.config.transcriber
    listened = engine.metrics().listening_s
    assert (
        listened.count == engine.metrics().step_s.count - 2
    )  # all but the model's own first step, and the last
    assert 0 < listened.p50 < 0.08


def test_a_row_counts_with_that_of_its_listener(engine: Engine, recogniser: Checkpoint) -> None:
    with Engine.load("tiny", device="cpu", capacity=2, shared=False) as without:
        own = without.capacity().row_bytes
    assert engine.capacity().row_bytes == own + RecogniserStep(recogniser, 1).row_bytes


def test_a_model_that_speaks_is_no_transcriber() -> None:
    with pytest.raises(ConfigError, match="tiny is a model of type 'moshi', which speaks"):
        Engine.load("tiny", transcriber="tiny", shared=False)
