"""One question streamed through a model, and what came of it written down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from tqdm import tqdm

from moshi_agent.audio.files import AudioWriter, read_audio
from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, frames_of
from moshi_agent.outputs import naming, whole_file

if TYPE_CHECKING:
    from moshi_agent import Conversation

_FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `moshi-agent run` was asked to do."""

    question: Path
    out: Path
    text: Path | None
    model: str
    device: str
    threads: int
    greedy: bool
    seed: int | None
    tail: float  # seconds
    stereo: bool
    live: bool


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a run measured, and what it takes to repeat it."""

    model: str
    device: str
    greedy: bool
    seed: int | None
    frames: int
    step_ms_median: float
    step_ms_p99: float
    real_time_factor: float  # computing time over audio time: below 1 is faster than speech

    def __str__(self) -> str:
        return (
            f"{self.frames} frames, step {self.step_ms_median:.1f} ms median, {self.step_ms_p99:.1f} ms p99, "
            f"real-time factor {self.real_time_factor:.3f}"
        )


def answer(run: Run) -> None:
    """Does the run, and prints the answer's text and a line of figures.

    Raises:
        MoshiAgentError: the question, the model or an output is no good; no output file is left then.
    """
    question = read_audio(run.question)
    with ExitStack() as stack:
        # Opened first: whether they can be written shows before the model is loaded, not after it has talked.
        writer = stack.enter_context(AudioWriter(run.out, channels=2 if run.stereo else 1))
        text_file = stack.enter_context(whole_file(run.text)) if run.text else None
        conversation = open_conversation(run)
        steps_ms = _converse(conversation, question, run, writer)
        figures = _figures(run, steps_ms)
        if run.text and text_file:
            with naming(run.text):
                text_file.write_text(_as_json(conversation, figures), encoding="utf-8")
    click.echo(conversation.text)
    click.echo(f"Written: {', '.join(str(path) for path in (run.out, run.text) if path)}")
    click.echo(str(figures))


def open_conversation(run: Run) -> Conversation:
    """Loads the model and starts a conversation with it."""
    from moshi_agent.cli.model import start_conversation  # loads torch

    return start_conversation(run.model, run.device, run.threads, greedy=run.greedy, seed=run.seed)


def _converse(conversation: Conversation, question: Samples, run: Run, writer: AudioWriter) -> list[float]:
    """Streams the question and the silence after it, writes the answer. Returns each step's time in ms."""
    frames = list(frames_of(question, run.tail))
    left = len(question) + round(run.tail * SAMPLE_RATE_HZ)  # samples to write: the last frame is filled up
    steps_ms: list[float] = []
    replies = conversation.stream(paced(frames) if run.live else frames)
    for frame, reply in zip(
        frames, tqdm(replies, total=len(frames), unit="frame", disable=None), strict=True
    ):
        heard_and_said = np.stack([frame, reply.audio], axis=1)  # [1920, 2]
        writer.write((heard_and_said if run.stereo else reply.audio)[:left])
        left -= FRAME_SAMPLES
        steps_ms.append(reply.step_ms)
    return steps_ms


def paced(frames: Iterable[Samples]) -> Iterator[Samples]:
    """The same frames, each at the time when a microphone would have finished recording it."""
    start = time.monotonic()
    for number, frame in enumerate(frames, 1):
        time.sleep(max(0.0, start + number * _FRAME_S - time.monotonic()))
        yield frame


def _figures(run: Run, steps_ms: Sequence[float]) -> Figures:
    median, p99 = np.percentile(steps_ms, [50, 99])
    return Figures(
        model=run.model,
        device=run.device,
        greedy=run.greedy,
        seed=run.seed,
        frames=len(steps_ms),
        step_ms_median=round(float(median), 3),
        step_ms_p99=round(float(p99), 3),
        real_time_factor=round(sum(steps_ms) / 1000 / (len(steps_ms) * _FRAME_S), 4),
    )


def _as_json(conversation: Conversation, figures: Figures) -> str:
    words = [{"word": word.word, "start": word.start, "end": word.end} for word in conversation.words]
    content = {"text": conversation.text, "words": words, "figures": asdict(figures)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
