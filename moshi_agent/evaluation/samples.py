"""The folders of a benchmark: each holds one sample, and the files in it tell the task.

Full-Duplex-Bench 1: `input.wav` with `pause.json`, `turn_taking.json` or `interrupt.json`; a folder with a
number for a name and none of them is one for backchannels. Version 1.5: `input.wav`, `clean_input.wav` and
`metadata.json`.
What the model says is `output.wav`, and its words `output.json`. A call that was recorded is a stereo file,
`call.wav`, with the bot on the left and the user on the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moshi_agent.errors import DataError
from moshi_agent.evaluation.words import read_json

Task = Literal["pause_handling", "smooth_turn_taking", "user_interruption", "backchannel", "overlap", "call"]
Suite = Literal["fdb-v1", "fdb-v1.5"]

SUITES: dict[Suite, tuple[Task, ...]] = {
    "fdb-v1": ("pause_handling", "backchannel", "smooth_turn_taking", "user_interruption"),
    "fdb-v1.5": ("overlap",),
}
_MARKS: dict[str, Task] = {
    "pause.json": "pause_handling",
    "turn_taking.json": "smooth_turn_taking",
    "interrupt.json": "user_interruption",
    "metadata.json": "overlap",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Names the folder of a sample and its task."""

    folder: Path
    task: Task

    @property
    def data_set(self) -> Path:
        """Returns the folder that it lies in together with others of its kind."""
        return self.folder.parent

    @property
    def inputs(self) -> dict[str, str]:
        """Names what the model is to hear, each with the name of what it says to it; both without `.wav`."""
        both = {"input": "output", "clean_input": "clean_output", "call": "output"}
        return {given: said for given, said in both.items() if (self.folder / f"{given}.wav").exists()}

    def event_s(self) -> tuple[float, float] | None:
        """Reads when the pause, the turn or the overlap begins and ends; None of a task without one.

        Raises:
            DataError: the file that tells it is of another form.
        """
        mark = next((name for name, task in _MARKS.items() if task == self.task), None)
        if mark is None:
            return None
        path = self.folder / mark
        match read_json(path):
            case {"timestamps": [int() | float() as start_s, int() | float() as end_s]}:
                return float(start_s), float(end_s)
            case [{"timestamp": [int() | float() as start_s, int() | float() as end_s]}, *_]:
                return float(start_s), float(end_s)
            case other:
                wanted = (
                    '{"timestamps": [1.5, 2.0]}' if self.task == "overlap" else '[{"timestamp": [1.5, 2.0]}]'
                )
                raise DataError(f"{path}: {other!r:.80}; wanted is {wanted}")

    def texts(self) -> tuple[str, str]:
        """Reads what was said before an interruption, and the interruption; "" where it is not told."""
        match read_json(self.folder / "interrupt.json"):
            case [{"context": str(context), "interrupt": str(interrupt)}, *_]:
                return context, interrupt
            case _:
                return "", ""


def find_samples(root: Path, suite: Suite | None = None) -> list[Sample]:
    """Finds the samples in a folder and all below it, in order, those with a number for a name by that.

    Args:
        suite: leaves out tasks of others; None takes all.

    Raises:
        DataError: there are none.
    """
    tasks: list[Task] = [task for name, tasks in SUITES.items() if suite in (None, name) for task in tasks]
    if suite is None:
        tasks.append("call")
    sounds = ("input.wav", "output.wav", "call.wav")
    folders = {path.parent for name in sounds for path in root.rglob(name)}
    found = [Sample(folder, task) for folder in folders if (task := _task_of(folder)) in tasks]
    if not found:
        looked_for = ", ".join(mark for mark, task in _MARKS.items() if task in tasks)
        raise DataError(
            f"{root} has no samples in it; looked for: folders with input.wav or output.wav and one of "
            f"{looked_for}, or named by a number; call.wav of recorded calls"
        )
    return sorted(found, key=lambda sample: (str(sample.data_set), _number(sample), sample.folder.name))


def _task_of(folder: Path) -> Task | None:
    for mark, task in _MARKS.items():
        if (folder / mark).exists():
            return task
    if (folder / "call.wav").exists():
        return "call"
    return "backchannel" if folder.name.isdecimal() else None


def _number(sample: Sample) -> int:
    return int(sample.folder.name) if sample.folder.name.isdecimal() else -1
