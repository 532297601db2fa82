"""One conversation over small random models. What `tiny` says is in tests/cli/test_run.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

import moshi_agent
from moshi_agent import (
    AudioChunk,
    Checkpoint,
    ConfigError,
    Conversation,
    Engine,
    InputError,
    SamplingConfig,
    SessionConfig,
    load_checkpoint,
)
from moshi_agent.models import LMGen
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from tests.engine.calling_device import FailingDevice
from tests.personaplex import write_personaplex
from tests.small_models import small_lm, small_mimi

_TOKENIZER = Path(moshi_agent.__file__).parent / "assets" / "tiny" / "tokenizer_spm.model"


@pytest.fixture
def checkpoint() -> Checkpoint:
    mimi, lm = small_mimi(), small_lm()
    tokenizer = SentencePieceProcessor(model_file=str(_TOKENIZER))
    return Checkpoint(
        name="small", mimi=mimi, mimi_config=mimi.config, lm=lm, config=lm.config, tokenizer=tokenizer
    )


def _frames(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(1920)).astype(np.float32) for _ in range(count)]


def test_every_frame_gets_one_reply(checkpoint: Checkpoint) -> None:
    """As many frames come out as go in, numbered, finite, and the same again with the same seed."""
    first, second = (list(Conversation(checkpoint, seed=3).stream(_frames(20))) for _ in range(2))
    assert [reply.frame for reply in first] == list(range(20))
    assert all(reply.audio.shape == (1920,) and np.isfinite(reply.audio).all() for reply in first)
    assert [reply.text for reply in first] == [reply.text for reply in second]
    assert all((a.audio == b.audio).all() for a, b in zip(first, second, strict=True))


def test_where_the_step_cannot_be_captured_it_goes_on_without(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning, and the same replies; a device that is lost is no reason to go on."""
    error = RuntimeError("CUDA error: operation not permitted when stream is capturing")
    said: list[list[np.ndarray]] = []
    for graphs in (FailingDevice(0, error), False):
        conversation = Conversation(checkpoint, seed=3, cuda_graphs=graphs)  # pyright: ignore[reportArgumentType]
        said.append([reply.audio for reply in conversation.stream(_frames(8))])
    np.testing.assert_array_equal(*said)
    assert caplog.text.count("slower: the step of 1 rows cannot be captured") == 1
    lost = FailingDevice(0, RuntimeError("CUDA error: unspecified launch failure"))
    with pytest.raises(RuntimeError, match="launch failure"):
        Conversation(checkpoint, cuda_graphs=lost)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def test_it_says_what_the_loop_of_the_known_api_says(checkpoint: Checkpoint) -> None:
    """Encode, step, decode by hand, the first frame stepped twice, give the same audio."""
    frames = _frames(12)
    got = np.concatenate([r.audio for r in Conversation(checkpoint, greedy=True).stream(frames)])
    mimi, lm = checkpoint.mimi, checkpoint.lm
    assert lm is not None
    generator, wanted = LMGen(lm, use_sampling=False), []
    with mimi.streaming(1), generator.streaming(1):
        for index, frame in enumerate(frames):
            codes = mimi.encode(torch.from_numpy(frame)[None, None])
            if index == 0:
                assert generator.step(codes) is None
            tokens = generator.step(codes)
            assert tokens is not None and (tokens != UNGENERATED_TOKEN).all()
            wanted.append(mimi.decode(tokens[:, 1:])[0, 0].numpy())
    np.testing.assert_allclose(got, np.concatenate(wanted), atol=1e-6)


def test_asking_for_a_greeting_changes_what_is_said(checkpoint: Checkpoint) -> None:
    """The forced first token reaches the model."""
    plain, greeted = (
        np.concatenate(
            [r.audio for r in Conversation(checkpoint, greedy=True, greet=greet).stream(_frames(10))]
        )
        for greet in (False, True)
    )
    assert not np.array_equal(plain, greeted)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros(1919, np.float32),
        np.zeros(1920),
        np.zeros((1, 1920), np.float32),
        np.full(1920, np.nan, np.float32),
    ],
)
def test_a_frame_of_another_form_is_refused(checkpoint: Checkpoint, frame: np.ndarray) -> None:
    """The error says what is accepted, and the conversation goes on."""
    conversation = Conversation(checkpoint)
    with pytest.raises(InputError, match="accepted"):
        conversation.step(frame)
    assert conversation.step(np.zeros(1920, np.float32)).frame == 0


def test_only_a_translation_is_told_of_an_end(checkpoint: Checkpoint) -> None:
    """Other models hear silence for as long as it lasts."""
    conversation = Conversation(checkpoint)
    with pytest.raises(InputError, match="accepted: frames"):
        conversation.step(None)
    assert not conversation.translates and not conversation.is_done


def test_what_the_checkpoint_advises_holds_unless_it_is_said_otherwise(checkpoint: Checkpoint) -> None:
    """A checkpoint may say that its tokens are not to be drawn."""
    advised = replace(checkpoint, lm_gen_config={"use_sampling": False})
    first, greedy = (
        [reply.audio for reply in conversation.stream(_frames(5))]
        for conversation in (Conversation(advised, seed=1), Conversation(checkpoint, greedy=True))
    )
    assert np.array_equal(first, greedy)


def test_with_a_persona_it_begins_as_a_conversation_of_the_engine(tmp_path: Path) -> None:
    """Their prompts leave the same, in the model and in the codec's decoder."""
    folder, persona = write_personaplex(tmp_path / "personaplex"), {"voice": "NATF0", "role": "A cat."}
    conversation = Conversation(load_checkpoint(folder, pack="auto"), greedy=True, **persona)
    alone = np.concatenate([reply.audio for reply in conversation.stream(_frames(6))])
    greedy = SamplingConfig(greedy=True)
    with Engine.load(str(folder), shared=False, capacity=1) as engine:
        config = SessionConfig(sampling=greedy, live=False, digital_silence=False, tail_ms=0, **persona)
        with engine.session(config) as session:
            session.push(np.concatenate(_frames(6)))
            session.finish()
            chunks = [event.pcm for event in session if isinstance(event, AudioChunk)]
    assert np.array_equal(np.concatenate(chunks)[: alone.size], alone)


def test_a_role_of_a_model_that_takes_none_is_refused(checkpoint: Checkpoint) -> None:
    """It is not left out in silence."""
    with pytest.raises(ConfigError, match="was not trained to take a role"):
        Conversation(checkpoint, role="A cat.")


def test_a_codec_alone_cannot_converse(checkpoint: Checkpoint) -> None:
    """Without a language model there is nothing to answer with."""
    codec = Checkpoint(
        name="codec",
        mimi=checkpoint.mimi,
        mimi_config=checkpoint.mimi_config,
        lm=None,
        config=None,
        tokenizer=None,
    )
    with pytest.raises(ConfigError, match="a codec alone: it holds no conversation"):
        Conversation(codec)
