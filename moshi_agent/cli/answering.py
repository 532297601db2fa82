"""One file of speech streamed through a model, and what came of it written down."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
from tqdm import tqdm

from moshi_agent.audio.files import AudioWriter, read_audio
from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, frames_of
from moshi_agent.config import KVCache
from moshi_agent.outputs import naming, whole_file

if TYPE_CHECKING:
    from moshi_agent import Conversation

_Frame = TypeVar("_Frame")
_TAIL_S = 4.0
_LONGEST_TRANSLATION_TAIL_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `moshi-agent run` was asked to do."""

    question: Path
    out: Path
    text: Path | None
    model: str
    lora: str | None
    device: str
    threads: int
    dtype: str | None
    kv_cache: KVCache
    cuda_graphs: bool
    greedy: bool
    seed: int | None
    voice: str | None  # a name, or a file
    role: str | None
    cfg_coef: float | None
    conditions: Mapping[str, str]
    tail: float | None  # seconds
    stereo: bool
    live: bool


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a run measured, and what it takes to repeat it."""

    model: str
    device: str
    greedy: bool
    seed: int | None
    cfg_coef: float | None
    conditions: Mapping[str, str]
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

    A model for speech recognition has no answer: what was said is printed then.

    Raises:
        MoshiAgentError: the question, the model or an output is no good; no output file is left then.
    """
    from moshi_agent.checkpoint.recogniser import is_recogniser  # loads torch

    question = read_audio(run.question)
    if is_recogniser(run.model):
        transcribe(run)
        return
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


def transcribe(run: Run) -> None:
    """Prints what is said in the question, and writes its words where the answer's would go."""
    from moshi_agent.cli.transcripts import Transcribe, transcribe_all

    transcribe_all(
        Transcribe(
            files=(run.question,),
            model=run.model,
            out=run.text,
            form="text" if run.text is None else "json",
            pause_s=2.0,
            device=run.device,
            threads=run.threads,
        )
    )


def open_conversation(run: Run) -> Conversation:
    """Loads the model and starts a conversation with it."""
    from moshi_agent.cli.model import How, On, start_conversation  # loads torch

    how = How(
        greedy=run.greedy,
        seed=run.seed,
        voice=_voice(run.voice),
        role=run.role,
        cfg_coef=run.cfg_coef,
        conditions=run.conditions,
    )
    on = On(
        device=run.device,
        threads=run.threads,
        dtype=run.dtype,
        kv_cache=run.kv_cache,
        cuda_graphs=run.cuda_graphs,
    )
    return start_conversation(run.model, on, how, run.lora)


def _voice(given: str | None) -> str | Path | None:
    """A file, where it is written like one, or else the name of a voice."""
    if given is None:
        return None
    return Path(given) if Path(given).name != given or Path(given).suffix else given


def _converse(conversation: Conversation, question: Samples, run: Run, writer: AudioWriter) -> list[float]:
    """Streams the question and what follows it, writes the answer. Returns each step's time in ms."""
    translates, steps_ms = conversation.translates, list[float]()
    usual_tail_s = _LONGEST_TRANSLATION_TAIL_S if translates else _TAIL_S
    tail_s = usual_tail_s if run.tail is None else run.tail
    left = len(question) + round(tail_s * SAMPLE_RATE_HZ)  # samples to write: the last frame is filled up
    frames = (
        conversation.until_done(frames_of(question), tail_s) if translates else frames_of(question, tail_s)
    )
    total = math.ceil(left / FRAME_SAMPLES)
    for frame in tqdm(paced(frames) if run.live else frames, total=total, unit="frame", disable=None):
        reply = conversation.step(frame)
        heard = np.zeros_like(reply.audio) if frame is None else frame
        heard_and_said = np.stack([heard, reply.audio], axis=1)  # [1920, 2]
        writer.write((heard_and_said if run.stereo else reply.audio)[:left])
        left = max(0, left - FRAME_SAMPLES)
        steps_ms.append(reply.step_ms)
    if translates and not conversation.is_done:
        click.echo(f"Cut off: the translation went on for more than {tail_s:g} s (--tail)", err=True)
    return steps_ms


def paced(frames: Iterable[_Frame]) -> Iterator[_Frame]:
    """Returns the same frames, each at the time when a microphone would have finished recording it."""
    start = time.monotonic()
    for number, frame in enumerate(frames, 1):
        time.sleep(max(0.0, start + number * FRAME_S - time.monotonic()))
        yield frame


def _figures(run: Run, steps_ms: Sequence[float]) -> Figures:
    median, p99 = np.percentile(steps_ms, [50, 99])
    return Figures(
        model=run.model,
        device=run.device,
        greedy=run.greedy,
        seed=run.seed,
        cfg_coef=run.cfg_coef,
        conditions=run.conditions,
        frames=len(steps_ms),
        step_ms_median=round(float(median), 3),
        step_ms_p99=round(float(p99), 3),
        real_time_factor=round(sum(steps_ms) / 1000 / (len(steps_ms) * FRAME_S), 4),
    )


def _as_json(conversation: Conversation, figures: Figures) -> str:
    words = [{"word": word.word, "start": word.start, "end": word.end} for word in conversation.words]
    content = {"text": conversation.text, "words": words, "figures": asdict(figures)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
