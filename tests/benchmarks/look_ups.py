"""Looks things up in the middle of calls with `tiny`: `python -m tests.benchmarks.look_ups`.

Callers in voices that no training has heard ask the questions that the model hands over; an application
answers after a while of the conversation's own time. An independent ear writes down what is then said.
Everything goes through an engine's sessions, a frame at a time, so that the figures are those of the calls
and not of this machine; only the last line, the cost of a step, is measured by the clock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch

from moshi_agent import (
    AskConfig,
    AudioChunk,
    ReferenceEnded,
    ReferenceWanted,
    Session,
    SessionConfig,
    TextToken,
)
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.engine.asking import ReferenceUse
from moshi_agent.engine.step.frame_step import FrameStep
from moshi_agent.engine.step.step_tensors import RowInput
from moshi_agent.events import Event
from moshi_agent.training.annotation.placed_word import Recogniser
from moshi_agent.training.tiny.evaluation.ear import BUNDLED, open_ear, written
from moshi_agent.training.tiny.evaluation.material import Lookup, Material, open_material
from moshi_agent.training.tiny.evaluation.run import tokenizer_of
from moshi_agent.training.tiny.evaluation.spoken_words import RIGHT, similarity
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB, Audio, loud_span
from tests.engine.stepped_core import FRAME_S, SteppedCore, taken

AT_ONCE = 20  # calls
LEAD_FRAMES = 6  # of silence before the question
PATIENCE_FRAMES = 25  # after it, in which the model is to ask
FILLER = "One moment, please."
SLOW_S = 3.0  # what a filler covers
LOUD = 10 ** (LOUD_DB / 20)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """How a call goes: what the application does, and whether the caller goes on meanwhile."""

    name: str
    answers_after_s: float
    filler: str | None = None
    interrupted_after_s: float | None = None
    listen_s: float = 6.0  # after the answer


@dataclass
class Call:
    """One call, frame by frame. `sound[t]` is what the bot says in frame t, [FRAME_SAMPLES]."""

    lookup: Lookup
    session: Session
    user: Audio  # [frames, FRAME_SAMPLES]
    asked_at: int  # the frame after the question's last
    sound: list[Audio] = field(default_factory=list[Audio])
    texts: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    wanted: ReferenceWanted | None = None
    wanted_at: int | None = None
    answered_at: int | None = None
    outcome: str | None = None
    reasons: list[str] = field(default_factory=list[str])

    def take(self, frame: int) -> None:
        """Takes what has been told of a frame."""
        for event in taken(self.session):
            self._take(event, frame)

    def _take(self, event: Event, frame: int) -> None:
        if isinstance(event, AudioChunk):
            self.sound.append(event.pcm.copy())
        elif isinstance(event, TextToken):
            self.texts.append((event.frame, event.text))
        elif isinstance(event, ReferenceWanted) and self.wanted is None:
            self.wanted, self.wanted_at = event, frame
        elif isinstance(event, ReferenceEnded):
            self.reasons.append(event.reason)

    def heard(self, first: int, last: int | None = None) -> Audio:
        """What is said from one frame to another, [samples]."""
        return np.concatenate([np.zeros(0, np.float32), *self.sound[first:last]])

    def first_loud(self, after: int) -> int | None:
        """The first frame from `after` on in which something is to be heard."""
        loud = (n for n, sound in enumerate(self.sound) if n >= after and np.abs(sound).max(initial=0) > LOUD)
        return next(loud, None)


class Calls:
    """Plays calls of one scene, many at once."""

    def __init__(self, checkpoint: Checkpoint, material: Material, use: ReferenceUse, seed: int) -> None:
        self._checkpoint, self._material = checkpoint, material
        self._use, self._seed = use, seed

    def play(self, scene: Scene, lookups: Sequence[Lookup]) -> list[Call]:
        """Every one of them in a call of its own."""
        calls: list[Call] = []
        for first in range(0, len(lookups), AT_ONCE):
            calls += self._play_group(scene, lookups[first : first + AT_ONCE])
        return calls

    def _play_group(self, scene: Scene, lookups: Sequence[Lookup]) -> list[Call]:
        core = SteppedCore(self._checkpoint, capacity=len(lookups), admit_by_time=False)
        calls = [self._begin(core, scene, lookup, number) for number, lookup in enumerate(lookups)]
        for frame in range(max(len(call.user) for call in calls)):
            for call in calls:
                if frame < len(call.user):
                    call.session.push(call.user[frame])
            core.settle()
            for call in calls:
                call.take(frame)
                self._answer(core, scene, call, frame)
        for call in calls:
            call.session.close()
        core.settle()
        return calls

    def _begin(self, core: SteppedCore, scene: Scene, lookup: Lookup, number: int) -> Call:
        asking = AskConfig(timeout_s=20.0, filler=scene.filler)
        session = core.session(
            SessionConfig(
                asking=asking,
                references=self._use,
                seed=self._seed + number,
                live=False,
                digital_silence=False,
            )
        )
        speech = self._material.corpus.audio(lookup.asked)
        asked_at = LEAD_FRAMES + -(-len(speech) // FRAME_SAMPLES)
        frames = asked_at + PATIENCE_FRAMES + round((scene.answers_after_s + scene.listen_s) / FRAME_S)
        user = np.zeros(frames * FRAME_SAMPLES, np.float32)
        start = LEAD_FRAMES * FRAME_SAMPLES
        user[start : start + len(speech)] = speech
        return Call(lookup, session, user.reshape(-1, FRAME_SAMPLES), asked_at)

    def _answer(self, core: SteppedCore, scene: Scene, call: Call, frame: int) -> None:
        """What the application and the caller do after a frame."""
        if call.wanted is None or call.wanted_at is None:
            return
        since = frame - call.wanted_at
        if scene.interrupted_after_s is not None and since == round(scene.interrupted_after_s / FRAME_S):
            voice = self._material.corpus.audio(call.lookup.asked)  # asks again
            room = call.user[frame + 1 :].reshape(-1)
            room[: len(voice)] += voice[: len(room)]
        if since == round(scene.answers_after_s / FRAME_S):
            reply = call.session.refer(call.lookup.found.text, call.wanted.id)
            core.settle()
            call.answered_at, call.outcome = frame, reply.result(20).outcome


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of one call."""

    asked: str
    found: str
    own_words: bool  # before the answer was there
    text: str
    heard: str
    first_s: float | None  # from the answer to the first sound of it
    request_s: float | None  # from the question's end to the request

    @property
    def right(self) -> bool:
        """Whether the ear understood what was found."""
        return similarity(self.found, self.heard) >= RIGHT


def judge(call: Call, ear: Recogniser, scene: Scene) -> Judged:
    """Listens to a call in which an answer was given."""
    answered = call.answered_at
    found = call.lookup.found.text
    asked = call.lookup.asked.item.text
    if answered is None or call.wanted_at is None:
        sound = call.heard(call.asked_at)
        own = loud_span(sound, LOUD_DB)[1] >= 0
        return Judged(
            asked=asked,
            found=found,
            own_words=own,
            text=_text(call, 0),
            heard="",
            first_s=None,
            request_s=None,
        )
    before = call.heard(call.asked_at, answered + 1)
    own = scene.filler is None and loud_span(before, LOUD_DB)[1] >= 0
    first = call.first_loud(answered + 1)
    heard = written(ear, call.heard(answered + 1))
    return Judged(
        asked=asked,
        found=found,
        own_words=own,
        text=_text(call, answered),
        heard=heard,
        first_s=None if first is None else (first - answered) * FRAME_S,
        request_s=(call.wanted_at - call.asked_at) * FRAME_S,
    )


def _text(call: Call, after: int) -> str:
    return "".join(text for frame, text in call.texts if frame > after).strip()


def report(name: str, judged: Sequence[Judged]) -> str:
    """A scene's line of the table, and what was misunderstood."""
    asked = [one for one in judged if one.request_s is not None]
    firsts = sorted(one.first_s for one in asked if one.first_s is not None)
    requests = sorted(one.request_s for one in asked if one.request_s is not None)
    times = (
        f"request {median(requests):.2f} s after the question, answer heard {median(firsts):.2f} s after it "
        f"was given ({firsts[int(0.95 * (len(firsts) - 1))]:.2f} s p95)"
        if firsts and requests
        else "never answered"
    )
    lines = [
        f"{name}: {sum(one.right for one in judged)} of {len(judged)} understood, {len(asked)} asked for, "
        f"{sum(one.own_words for one in judged)} with words of its own before; {times}"
    ]
    wrong = [one for one in judged if not one.right][:12]
    lines += [f"  {one.asked!r} -> {one.found!r}: wrote {one.text!r}, heard {one.heard!r}" for one in wrong]
    return "\n".join(lines)


def teacher_share(lookups: Sequence[Lookup], ear: Recogniser) -> int:
    """How many of the texts that ear understands in the teacher's own voice."""
    return sum(similarity(one.found.text, written(ear, one.found.audio)) >= RIGHT for one in lookups)


def interrupted(calls: Sequence[Call], ear: Recogniser) -> str:
    """Whether callers who go on get no late answer."""
    asked = [call for call in calls if call.wanted is not None]
    cancelled = sum("interrupted" in call.reasons for call in asked)
    taken_late = sum(call.outcome == "taken" for call in asked if "interrupted" in call.reasons)
    spoken = 0
    for call in asked:
        if call.answered_at is None or "interrupted" not in call.reasons:
            continue
        heard = written(ear, call.heard(call.answered_at + 1))
        spoken += similarity(call.lookup.found.text, heard) >= RIGHT
    return (
        f"interrupted while looking up: {cancelled} of {len(asked)} cancelled; "
        f"late answers taken {taken_late}, spoken {spoken}"
    )


def neighbours(checkpoint: Checkpoint, material: Material, use: ReferenceUse, seed: int) -> str:
    """Eight callers at once, half of them looking something up: is each as he is alone?"""
    lookups = material.lookups[::11][:4]
    scene = Scene(name="", answers_after_s=0.8, listen_s=3.0)

    def play(numbers: Sequence[int]) -> dict[int, Audio]:
        calls = Calls(checkpoint, material, use, seed)
        core = SteppedCore(checkpoint, capacity=8, admit_by_time=False)
        begun = {n: calls._begin(core, scene, lookups[n // 2], n) for n in numbers}
        frames = max(len(call.user) for call in begun.values())
        for frame in range(frames):
            for call in begun.values():
                if frame < len(call.user):
                    call.session.push(call.user[frame])
            core.settle()
            for number, call in begun.items():
                call.take(frame)
                if number % 2:
                    calls._answer(core, scene, call, frame)
        return {number: call.heard(0) for number, call in begun.items()}

    together = play(range(8))
    same = sum(np.array_equal(together[n], play([n])[n]) for n in range(8))
    return f"eight at once, four of them looking up: {same} of 8 give the bits that they give alone"


def cost(checkpoint: Checkpoint, rows: int = 8, rounds: int = 60) -> str:
    """A step in which every row reads a reference, beside one in which none does."""
    step = FrameStep(checkpoint, rows)
    for row in range(rows):
        step.begin_row(row, checkpoint.advised_sampling)
    quiet = np.zeros(FRAME_SAMPLES, np.float32)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * rounds):
        reads = bool(number % 2)
        inputs = [RowInput(row=row, pcm=quiet, reference=40 if reads else None) for row in range(rows)]
        begin = time.perf_counter()
        step.run(inputs)
        spent[reads].append(time.perf_counter() - begin)
    ratio = median(spent[True][5:]) / median(spent[False][5:])
    return f"a step of {rows} rows with references takes {ratio:.3f} times one without (medians, interleaved)"


@click.command()
@click.option("--model", default="tiny", show_default=True)
@click.option("--held-out", type=click.Path(path_type=Path), default=Path("runs/held_out"), show_default=True)
@click.option(
    "--references", "use", type=click.Choice(["as_trained", "say"]), default="say", show_default=True
)
@click.option("--calls", "count", default=100, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(model: str, held_out: Path, use: ReferenceUse, count: int, seed: int) -> None:
    """Prints what callers get who ask for something that is looked up."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(model, pack="auto")
    material = open_material(held_out, tokenizer_of(checkpoint), seed)
    order = np.random.default_rng(seed).permutation(len(material.lookups))[:count]
    lookups = [material.lookups[int(i)] for i in order]
    ear = open_ear(BUNDLED)
    calls = Calls(checkpoint, material, use, seed)
    click.echo(f"the teacher's own voice: {teacher_share(lookups, ear)} of {len(lookups)} understood")
    scenes = (
        Scene(name="answered after 0.4 s", answers_after_s=0.4),
        Scene(name="answered after 3 s, with a filler", answers_after_s=SLOW_S, filler=FILLER),
    )
    for scene in scenes:
        click.echo(report(scene.name, [judge(call, ear, scene) for call in calls.play(scene, lookups)]))
    goes_on = Scene(name="", answers_after_s=2.0, interrupted_after_s=0.8)
    click.echo(interrupted(calls.play(goes_on, lookups[: count // 4]), ear))
    click.echo(neighbours(checkpoint, material, use, seed))
    click.echo(cost(checkpoint))


if __name__ == "__main__":
    main()
