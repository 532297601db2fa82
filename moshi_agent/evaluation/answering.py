"""All inputs through an engine, as many at once as it has rows, faster than real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from moshi_agent.audio.files import read_audio, read_channels, write_audio
from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.engine import Engine
from moshi_agent.errors import EngineUnhealthy
from moshi_agent.evaluation.samples import Sample
from moshi_agent.evaluation.words import SpokenWord, words_path, write_words
from moshi_agent.events import AudioChunk, Ended, Word
from moshi_agent.outputs import naming


@dataclass(frozen=True)
class Answer:
    """Holds what the model says while it hears an input: as long as it, and at the same times."""

    sound: Samples = field(repr=False)  # [N] at 24 kHz
    words: list[SpokenWord]  # of its inner monologue


def answer_samples(
    engine: Engine,
    samples: Sequence[Sample],
    config: SessionConfig | None = None,
    *,
    told: Callable[[], object] = lambda: None,
) -> None:
    """Writes `output.wav` and the words of the inner monologue for every input, `clean_output.wav` likewise.

    What a recogniser wrote of another output before is removed.

    Args:
        engine: which serves; all of its rows are used.
        config: of the conversations: voice, role, sampling, seed.
        told: called after each input.

    Raises:
        AudioError: an input that is no good.
        EngineUnhealthy: a conversation broke.
        OutputError: something cannot be written.
    """
    work = [(sample.folder, given, said) for sample in samples for given, said in sample.inputs.items()]
    asyncio.run(_answer_all(engine, work, config or SessionConfig(seed=0), told))


async def _answer_all(
    engine: Engine,
    work: Sequence[tuple[Path, str, str]],
    config: SessionConfig,
    told: Callable[[], object],
) -> None:
    rows = asyncio.Semaphore(engine.config.capacity)

    async def one(folder: Path, given: str, said: str) -> None:
        async with rows:
            answer = await hear(engine, read_input(folder, given), config)
        write_answer(folder, said, answer)
        told()

    async with asyncio.TaskGroup() as tasks:
        for piece in work:
            tasks.create_task(one(*piece))


def write_answer(folder: Path, said: str, answer: Answer) -> None:
    """Writes an answer into the folder of its sample as `said`, such as `output`.

    Raises:
        OutputError: a file cannot be written.
    """
    with naming(folder):
        words_path(folder, said, "recogniser").unlink(missing_ok=True)
    write_audio(folder / f"{said}.wav", answer.sound)
    write_words(words_path(folder, said, "monologue"), answer.words)


def read_input(folder: Path, given: str) -> Samples:
    """Reads what the model is to hear, [N] at 24 kHz: a file as it is, of a recorded call the user's side.

    Raises:
        AudioError: it is missing or damaged.
    """
    path = folder / f"{given}.wav"
    return read_channels(path)[:, -1].copy() if given == "call" else read_audio(path)


async def hear(engine: Engine, samples: Samples, config: SessionConfig) -> Answer:
    """Lets the model hear samples [N] at 24 kHz, and returns what it says meanwhile.

    Raises:
        EngineUnhealthy: the conversation broke.
    """
    as_file = replace(config, live=False, tail_ms=0.0, longest_tail_ms=0.0, output_sample_rate=SAMPLE_RATE_HZ)
    sound, words = np.zeros(len(samples), np.float32), list[SpokenWord]()
    async with engine.session(as_file) as session:
        session.push(samples)
        session.finish()
        async for event in session:
            match event:
                case AudioChunk(media_s=at_s, pcm=pcm):
                    first = round(at_s * SAMPLE_RATE_HZ)
                    room = sound[first : first + len(pcm)]
                    room[:] = pcm[: len(room)]
                case Word(text=text, start=start_s, end=end_s):
                    words.append(SpokenWord(text, round(start_s, 3), round(end_s, 3)))
                case Ended(reason=reason, error=error) if reason != "finished":
                    raise EngineUnhealthy(f"a conversation ended ({reason}): {error or 'no reason'}")
                case _:
                    pass
    return Answer(sound, [word for word in words if word.start_s < len(samples) / SAMPLE_RATE_HZ])
