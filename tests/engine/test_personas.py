"""Roles and voices, as a conversation asks for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent import (
    AudioError,
    ConfigError,
    Engine,
    EngineConfig,
    EngineFull,
    InputError,
    SamplingConfig,
    SessionConfig,
)
from moshi_agent.audio.files import write_audio
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.checkpoint.voices import find_voices
from moshi_agent.config import MimiConfig
from moshi_agent.engine.commands import Close, Open
from moshi_agent.engine.event_queue import Outlet
from moshi_agent.engine.personas import PersonaOpenings, Personas
from moshi_agent.engine.prompt.persona import compile_persona, marked, still_codes
from moshi_agent.engine.prompt.prompt import Prompt
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.sampling import RowSampling
from tests.engine.stepped_core import FRAME_S, SteppedCore, audio_of, taken
from tests.personaplex import CONTEXT, voice_file, write_personaplex

ROLE = "You are a cat on a mat."
NOISE = np.random.default_rng(0).normal(0, 0.1, (6, 1920)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_personaplex(tmp_path_factory.mktemp("checkpoints") / "personaplex")


@pytest.fixture(scope="module")
def personaplex(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, pack="auto")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, voice: NDArray[np.float32]) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    write_audio(folder / "calm.wav", voice)
    (folder / "NATM1.pt").write_bytes(voice_file(5, steps=4))
    return folder


@pytest.fixture(scope="module")
def voice() -> NDArray[np.float32]:
    """Something of 1.6 s that has a loudness."""
    time_s = np.arange(20 * 1920) / 24_000
    return (0.1 * np.sin(2 * np.pi * 200 * time_s) * np.sin(7 * time_s)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(folder: Path, recordings: Path) -> Iterator[Engine]:
    with Engine.load(str(folder), capacity=4, voices=recordings, admit_by_time=False, shared=False) as engine:
        yield engine


def prompt_of(personas: Personas, **asked: Any) -> Prompt:
    return personas.prompt(SessionConfig(**asked))


def test_the_prompt_is_voice_silence_role_and_silence(
    personaplex: Checkpoint, voice: NDArray[np.float32]
) -> None:
    tokenizer, lm = personaplex.tokenizer, personaplex.lm
    assert tokenizer is not None and lm is not None
    pieces = tokenizer.encode(f"<system> {ROLE} <system>")
    still = still_codes(personaplex)
    tokens = compile_persona(personaplex, voice, ROLE).tokens
    assert tokens.shape == (20 + 6 + len(pieces) + 6, 5)
    # A step chooses the text and the first code of the frame after it, and the second code of its own.
    begin = 20 + 6 - 1
    assert tokens[begin : begin + len(pieces), 0].tolist() == pieces
    assert (tokens[:begin, 0] == 3).all() and (tokens[begin + len(pieces) : -1, 0] == 3).all()
    assert (tokens[20:-1, 1] == still.bot[0]).all() and (tokens[20:, 2] == still.bot[1]).all()
    assert (tokens[:, 3:] == still.user).all()
    assert tokens[-1].tolist() == [UNGENERATED_TOKEN] * 2 + [still.bot[1], *still.user]
    louder = compile_persona(personaplex, 3 * voice, ROLE)
    assert np.array_equal(louder.tokens, tokens)  # whatever its loudness, it is brought to -24 LUFS


def test_a_role_has_its_marks_once() -> None:
    assert marked(" Be brief. ") == marked("<system> Be brief. <system>") == "<system> Be brief. <system>"


def test_the_published_codecs_silence_and_tone_are_nvidias(personaplex: Checkpoint) -> None:
    still = still_codes(replace(personaplex, mimi_config=MimiConfig()))
    assert (still.bot.tolist(), still.user.tolist()) == ([948, 243], [430, 1268])
    own = still_codes(personaplex)
    assert max(*own.bot, *own.user) < 32  # another codec's are its own


@pytest.mark.parametrize(
    "asked", [{"voice": "NATF0", "role": ROLE}, {"voice": "NATF0"}, {"role": ROLE}], ids=str
)
def test_prefilled_or_step_by_step_it_goes_on_the_same(
    personaplex: Checkpoint, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompt_of(Personas(personaplex), **asked)
    sounds: list[NDArray[np.float32]] = []
    steps: list[int] = []
    for by_steps in (False, True):
        core = SteppedCore(personaplex, capacity=1)
        if by_steps:
            if prompt.embeddings is not None:
                continue  # there are no tokens to step with
            monkeypatch.setattr("moshi_agent.engine.step.row_states.prefill", prefill_by_steps)
        config = SessionConfig(seed=5, prompt=prompt, live=False, digital_silence=False)
        session = core.session(config)
        steps.append(core.core.metrics.snapshot().step_s.count)
        for pcm in NOISE:
            session.push(pcm)
            core.wait(FRAME_S)
        sounds.append(audio_of(taken(session)))
        assert core.step.steps_taken(0) == len(prompt.tokens) + len(NOISE)
    assert steps == [1] * len(steps)
    assert len(sounds[0]) == len(NOISE) * 1920
    assert all(np.array_equal(sound, sounds[0]) for sound in sounds)


def prefill_by_steps(generator: Generator, state: LMGenState, tokens: Tensor, embeddings: None) -> None:
    sampling = RowSampling(1, tokens.device, SamplingConfig(greedy=True))
    for step in tokens[:, None]:
        given = StepInput(
            user=step[:, generator.ring.generated :], forced=step[:, : generator.ring.generated]
        )
        generator.advance(state, given, sampling)


def test_a_persona_is_prefilled_once(personaplex: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompt_of(Personas(personaplex), voice="NATF0", role=ROLE)
    core = SteppedCore(personaplex, capacity=3)
    sounds: list[NDArray[np.float32]] = []
    for number in range(3):
        session = core.session(SessionConfig(seed=5, prompt=prompt, live=False, digital_silence=False))
        assert core.core.metrics.snapshot().step_s.count == 1 + 6 * number  # the prompt's last step, once
        for pcm in NOISE:
            session.push(pcm)
            core.wait(FRAME_S)
        sounds.append(audio_of(taken(session)))
        session.close()
        core.settle()
    assert np.array_equal(sounds[0], sounds[1]) and np.array_equal(sounds[0], sounds[2])


def test_others_go_on_while_a_long_prompt_is_read(personaplex: Checkpoint) -> None:
    core = SteppedCore(personaplex, capacity=2)
    other = core.session(SessionConfig(seed=1, live=False))
    tokens = np.tile(np.array([3, 1, 1, 1, 1]), (150, 1))
    for pcm in NOISE[:2]:
        other.push(pcm)
    core.session(SessionConfig(seed=2, prompt=Prompt(tokens, is_whole=True)))
    assert core.step.steps_taken(1) == 150
    assert len(audio_of(taken(other))) == 2 * 1920


def test_the_model_says_what_it_takes(engine: Engine) -> None:
    assert engine.model.takes_roles
    assert engine.model.voices == ("NATF0", "NATM1", "calm")


@pytest.mark.parametrize("asked", ["name", "recording", "file", "audio", "role"])
def test_a_voice_is_asked_for_by_name_file_or_sound(
    engine: Engine, recordings: Path, voice: NDArray[np.float32], asked: str
) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "name": {"voice": "NATF0", "role": ROLE},
        "recording": {"voice": "calm", "role": ROLE},
        "file": {"voice": recordings / "NATM1.pt"},
        "audio": {"voice": voice, "role": ROLE},
        "role": {"role": ROLE},
    }
    sounds = [converse(engine, SessionConfig(seed=1, live=False, **one)) for one in (wanted[asked], {})]
    again = converse(engine, SessionConfig(seed=1, live=False, **wanted[asked]))
    assert len(sounds[0]) == len(NOISE) * 1920
    assert not np.array_equal(*sounds)
    assert np.array_equal(sounds[0], again)


def converse(engine: Engine, config: SessionConfig) -> NDArray[np.float32]:
    """What is said while the noise is heard."""
    chunks: list[NDArray[np.float32]] = []
    with engine.session(config) as session:
        for pcm in NOISE:
            session.push(pcm)
        while sum(map(len, chunks)) < NOISE.size:
            event = session.next_event(timeout_s=20)
            pcm = getattr(event, "pcm", None)
            if pcm is not None:
                chunks.append(pcm)
    return np.concatenate(chunks)


def test_the_operators_voice_goes_before_the_checkpoints(personaplex: Checkpoint, recordings: Path) -> None:
    own, others = Personas(personaplex), Personas(personaplex, voices=recordings)
    assert len(prompt_of(own, voice="NATM1").tokens) == 13 + 12
    assert len(prompt_of(others, voice="NATM1").tokens) == 5 + 12


def test_what_is_no_persona_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("text")
    write_audio(tmp_path / "silence.wav", np.zeros(24_000, np.float32))
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"voice": "NATF9"}, ConfigError, "no voice 'NATF9'; there are: NATF0, NATM1, calm"),
        ({"voice": "../voices/NATF0.pt"}, ConfigError, "no voice"),
        ({"voice": str(tmp_path / "text.pt")}, ConfigError, "no voice"),
        ({"voice": tmp_path / "text.pt"}, InputError, "no voice file"),
        ({"voice": tmp_path / "missing.pt"}, InputError, "cannot be read"),
        ({"voice": tmp_path / "missing.wav"}, AudioError, "there is no file"),
        ({"voice": tmp_path / "silence.wav"}, AudioError, "without anything to be heard"),
        ({"role": "mat " * 300}, InputError, f"accepted: {CONTEXT}, as the model remembers"),
        ({"voice": np.ones((CONTEXT + 1) * 1920, np.float32)}, InputError, f"accepted: {CONTEXT}, as the"),
        ({"role": "\ud800"}, InputError, "no surrogates"),
    ]
    for asked, error, message in refused:
        with pytest.raises(error, match=message):
            engine.session(SessionConfig(**asked)).open()
    with engine.session(SessionConfig(voice="NATF0")) as session:
        assert session.is_open
    deadline = time.monotonic() + 10
    while engine.metrics().live_sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.metrics().live_sessions == 0
    assert engine.metrics().healthy


def test_a_persona_and_another_beginning_do_not_go_together() -> None:
    for other in ({"greet": True}, {"prompt": Prompt(np.full((1, 5), 3))}):
        with pytest.raises(ConfigError, match="accepted: either"):
            SessionConfig(role="A cat.", **other)
    for wrong in ({"role": " "}, {"role": 3}, {"voice": 3}):
        with pytest.raises(ConfigError, match="accepted: "):
            SessionConfig(**wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(AudioError):
        SessionConfig(voice=np.zeros((2, 3), np.float32))


def test_two_configurations_with_the_same_voice_are_equal(voice: NDArray[np.float32]) -> None:
    assert SessionConfig(voice=voice) == SessionConfig(voice=voice.copy())
    assert SessionConfig(voice=voice) != SessionConfig(voice=2 * voice)


def test_moshi_takes_no_persona_unless_it_is_said_to(checkpoint: Checkpoint, recordings: Path) -> None:
    with pytest.raises(ConfigError, match="tiny was not trained to take a role or a voice"):
        prompt_of(Personas(checkpoint), role=ROLE)
    with pytest.raises(ConfigError, match="accepted: a PersonaPlex, or personas=True"):
        Personas(checkpoint, voices=recordings)
    with pytest.raises(ConfigError, match="no folder with voices"):
        Personas(checkpoint, voices=recordings / "missing", wanted=True)
    asked = Personas(checkpoint, voices=recordings, wanted=True)
    assert prompt_of(asked, voice="calm", role="hello").tokens.shape[1] == 17


def test_a_conversation_closed_before_its_persona_is_there_leaves_nothing(engine: Engine) -> None:
    for number in range(8):
        session = engine.session(SessionConfig(role=f"You are number {number}."))
        reply = session._request_open(None)  # pyright: ignore[reportPrivateUsage]
        session._backend.send(Close(session.key))  # pyright: ignore[reportPrivateUsage]
        reply.exception(timeout=10)
    deadline = time.monotonic() + 10
    while engine.metrics().live_sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.metrics().live_sessions == 0


def test_no_more_prompts_are_made_than_conversations_could_be_let_in(personaplex: Checkpoint) -> None:
    opened: list[Open] = []
    is_held = threading.Event()

    def request(command: Open, outlet: Outlet | None) -> Future[None]:
        is_held.wait(20)
        opened.append(command)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    openings = PersonaOpenings(Personas(personaplex), EngineConfig(capacity=1), request, lambda _: None)
    replies = [openings.open(Open(key, SessionConfig(role=f"{key}")), None) for key in range(3)]
    with pytest.raises(EngineFull, match="2 conversations wait"):
        replies[2].result(timeout=0)
    is_held.set()
    assert [reply.result(timeout=20) for reply in replies[:2]] == [None, None]
    assert sorted(command.key for command in opened) == [0, 1]


@pytest.mark.real_time
def test_the_second_call_begins_within_a_frame(engine: Engine) -> None:
    role = "You are a patient teacher. " * 2
    times_s: list[float] = []
    for _ in range(4):
        started = time.perf_counter()
        with engine.session(SessionConfig(voice="NATF0", role=role)):
            times_s.append(time.perf_counter() - started)
    assert min(times_s[1:]) < FRAME_S


def test_an_archive_that_has_gone_is_said_to(personaplex: Checkpoint, tmp_path: Path) -> None:
    folder = write_personaplex(tmp_path / "personaplex")
    voices = find_voices(folder / "voices.tgz")
    (folder / "voices.tgz").unlink()
    with pytest.raises(InputError, match="not a whole archive"):
        voices["NATF0"].read()
    assert torch.is_tensor(personaplex.voices["NATF0"].read().tokens)
