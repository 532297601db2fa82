"""What is forced before a conversation: computed once, copied for all who come after, the same either way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moshi_agent import (
    AudioChunk,
    ConfigError,
    Conversation,
    Ended,
    InputError,
    Prompt,
    Session,
    SessionConfig,
    TextToken,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.prompt.prompt import PromptSource, compile_prompt
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken

NOISE = np.random.default_rng(0).normal(0, 0.1, (4, 1920)).astype(np.float32)


def steps_of(core: SteppedCore) -> int:
    return core.core.metrics.snapshot().step_s.count


def continuation(core: SteppedCore, session: Session) -> NDArray[np.float32]:
    for pcm in NOISE:
        session.push(pcm)
        core.wait(FRAME_S)
    return audio_of(taken(session))


@pytest.fixture(scope="module")
def prompt(checkpoint: Checkpoint) -> Prompt:
    return compile_prompt(PromptSource(text="Hello! It is nice"), checkpoint)


def test_a_prompt_is_computed_once_and_goes_on_the_same(checkpoint: Checkpoint, prompt: Prompt) -> None:
    core = SteppedCore(checkpoint, capacity=3)
    config = SessionConfig(seed=5, prompt=prompt, live=False, digital_silence=False)
    first = core.session(config)
    assert steps_of(core) == 1 + len(prompt.tokens)
    second = core.session(config)
    assert steps_of(core) == 1 + len(prompt.tokens)
    without = core.session(SessionConfig(seed=5, live=False, digital_silence=False))
    sounds = [continuation(core, session) for session in (first, second, without)]
    assert len(sounds[0]) == 4 * 1920
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])
    assert core.step.steps_taken(0) == core.step.steps_taken(1) == 1 + len(prompt.tokens) + 4


def test_one_prompt_serves_conversations_with_other_seeds(checkpoint: Checkpoint, prompt: Prompt) -> None:
    sounds = {}
    for first_seed in (5, 6):
        core = SteppedCore(checkpoint, capacity=2)
        core.session(SessionConfig(seed=first_seed, prompt=prompt))
        session = core.session(SessionConfig(seed=7, prompt=prompt, digital_silence=False))
        sounds[first_seed] = continuation(core, session)
    assert np.array_equal(sounds[5], sounds[6])


def test_nothing_of_a_prompt_is_heard_and_frames_count_from_its_end(
    checkpoint: Checkpoint, prompt: Prompt
) -> None:
    core = SteppedCore(checkpoint, capacity=1)
    session = core.session(SessionConfig(seed=5, prompt=prompt))
    core.wait(0.1)
    assert taken(session) == []
    session.push(SILENCE)
    core.settle()
    assert {event.frame for event in taken(session)} == {0}


def test_the_tokens_are_text_from_the_first_frame_over_delayed_codes(
    checkpoint: Checkpoint, thanks: NDArray[np.float32]
) -> None:
    assert checkpoint.lm is not None
    audio = thanks[4800 : 4800 + 5 * 1920]
    tokens = compile_prompt(PromptSource(text="La la.", audio=audio), checkpoint).tokens
    with torch.inference_mode():
        codes = checkpoint.mimi.encode(torch.from_numpy(audio)[None, None])[0].numpy()
    pieces = [piece for word in ("La", "la.") for piece in checkpoint.tokenizer.encode(word)]
    assert tokens[:, 0].tolist() == pieces + [3] * (5 - len(pieces))
    for codebook, delay in enumerate(checkpoint.lm.delays[1:9]):
        assert tokens[delay:, 1 + codebook].tolist() == codes[codebook, : 5 - delay].tolist()
    assert (tokens[:, 9:] == -2).all()


def test_a_conversation_that_is_over_before_its_prompt_is_ends(core: SteppedCore) -> None:
    prompt = Prompt(np.full((3, 5), 3))
    session = core.session(SessionConfig(seed=1, live=False, prompt=prompt, tail_ms=0, longest_tail_ms=0))
    session.finish()
    core.settle()
    assert kinds_of(taken(session), Ended)


def test_the_oldest_prompt_is_forgotten(core: SteppedCore) -> None:
    # Text alone: what is wholly forced takes no step.
    prompts = [Prompt(np.array([[number, -2, -2, -2, -2]])) for number in range(17)]

    def steps_to_begin(prompt: Prompt) -> int:
        before = steps_of(core)
        core.session(SessionConfig(prompt=prompt)).close()
        core.settle()
        return steps_of(core) - before

    assert [steps_to_begin(prompt) for prompt in prompts] == [2] * 17
    assert steps_to_begin(prompts[-1]) == 0
    assert steps_to_begin(prompts[0]) == 2
    assert steps_to_begin(Prompt(prompts[-1].tokens.copy())) == 0  # equal tokens, equal prompt


def test_what_cannot_be_a_prompt_is_refused(checkpoint: Checkpoint, core: SteppedCore) -> None:
    with pytest.raises(ConfigError, match="a prompt needs text or audio"):
        compile_prompt(PromptSource(), checkpoint)
    with pytest.raises(InputError, match="cannot be said"):
        compile_prompt(PromptSource(text="漢字"), checkpoint)
    for tokens in (np.zeros((0, 17), np.int64), np.zeros(17, np.int64), np.zeros((2, 17), np.int32)):
        with pytest.raises(ConfigError, match="prompt tokens of shape"):
            Prompt(tokens)
    with pytest.raises(InputError, match="a prompt of 17 streams; this model has 5"):
        core.session(SessionConfig(prompt=Prompt(np.full((1, 17), 3))))
    with pytest.raises(InputError, match="from 41 to 41; accepted: -1 to 40 for text, to 32 for codes"):
        core.session(SessionConfig(prompt=Prompt(np.full((1, 5), 41))))
    with pytest.raises(InputError, match=r"embeddings of shape \[1, 3\]; accepted: .* \[steps, 16\]"):
        core.session(SessionConfig(prompt=Prompt(np.full((1, 5), 1), np.zeros((1, 3), np.float32))))
    assert core.core.metrics.snapshot().live_sessions == 0


def test_asked_to_greet_the_bot_speaks_first(checkpoint: Checkpoint) -> None:
    core = SteppedCore(checkpoint, capacity=2)
    greeting, silent = (
        core.session(SessionConfig(seed=1, greet=greet, live=False)) for greet in (True, False)
    )
    alone = Conversation(checkpoint, seed=1, greet=True)
    for _ in range(24):
        alone.step(SILENCE)
        for session in (greeting, silent):
            session.push(SILENCE)
    core.settle()
    events = taken(greeting)
    said = "".join(event.text for event in kinds_of(events, TextToken) if isinstance(event, TextToken))
    assert said.strip() == alone.text
    assert len(alone.text.split()) > 2
    assert any(np.abs(chunk.pcm).max() > 0.05 for chunk in events if isinstance(chunk, AudioChunk))
    assert not kinds_of(taken(silent), TextToken)
