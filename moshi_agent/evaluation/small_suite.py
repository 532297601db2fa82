"""A small suite of our own: the sample questions in the benchmark's layout, made in no time.

The questions are in voices of the built-in model's recipe. Every sample is the same whenever it is made.

    smooth_turn_taking   a question, and silence for its answer
    pause_handling       a question with a pause inside, up to its last word: whoever speaks takes the turn
    user_interruption    a question, and while it is answered another one
    background_speech    the same, but the other one is far away; and beside it the first one alone
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from moshi_agent.audio.files import read_audio, write_audio
from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.outputs import naming, whole_file
from moshi_agent.questions import Question, sample_questions

COUNT = 8  # samples of each task
_BEFORE_S = 0.5
_ANSWER_S = 4.0
_PAUSE_S = 1.0
_INTO_ANSWER_S = 1.5  # after the question, the other one begins
_FAR = 10 ** (-18 / 20)  # how loud that one is where it is not for the model
_FLOOR = 0.02  # of the peak: what is under it at the ends of a question is silence
_DIP_S = 0.04


def make_small_suite(root: Path) -> None:
    """Writes the suite into a folder; outputs that are there stay.

    Raises:
        OutputError: it cannot be written.
    """
    questions = sample_questions()
    spoken = {question.path: _trimmed(read_audio(question.path)) for question in questions}
    for number in range(COUNT):
        one, other = questions[number], questions[-1 - number]
        _write_turn(root / "smooth_turn_taking" / str(number), spoken[one.path])
        _write_pause(root / "pause_handling" / str(number), spoken[one.path])
        _write_interruption(root, str(number), (one, spoken[one.path]), (other, spoken[other.path]))


def _write_turn(folder: Path, question: Samples) -> None:
    end_s = _BEFORE_S + _seconds(question)
    _write_sound(folder, "input", [_silence(_BEFORE_S), question, _silence(_ANSWER_S)])
    _write_json(folder / "turn_taking.json", [{"text": "[TURN-TAKING]", "timestamp": [end_s, end_s]}])


def _write_pause(folder: Path, question: Samples) -> None:
    cut = _quietest(question)
    start_s = _BEFORE_S + cut / SAMPLE_RATE_HZ
    _write_sound(folder, "input", [_silence(_BEFORE_S), question[:cut], _silence(_PAUSE_S), question[cut:]])
    _write_json(folder / "pause.json", [{"text": "[PAUSE]", "timestamp": [start_s, start_s + _PAUSE_S]}])


def _write_interruption(
    root: Path, name: str, first: tuple[Question, Samples], second: tuple[Question, Samples]
) -> None:
    (one, one_spoken), (other, other_spoken) = first, second
    begin = [_silence(_BEFORE_S), one_spoken, _silence(_INTO_ANSWER_S)]
    start_s = sum(map(_seconds, begin))
    times = [start_s, start_s + _seconds(other_spoken)]
    near, far = root / "user_interruption" / name, root / "background_speech" / name
    _write_sound(near, "input", [*begin, other_spoken, _silence(_ANSWER_S)])
    texts = {"context": one.text, "interrupt": other.text}
    _write_json(near / "interrupt.json", [{**texts, "timestamp": times}])
    _write_sound(far, "input", [*begin, _FAR * other_spoken, _silence(_ANSWER_S)])
    _write_sound(far, "clean_input", [*begin, np.zeros_like(other_spoken), _silence(_ANSWER_S)])
    texts = {"context_text": one.text, "current_turn_text": other.text}
    _write_json(far / "metadata.json", {**texts, "timestamps": times})


def _trimmed(question: Samples) -> Samples:
    """[N] without the silence at its ends."""
    loud = np.flatnonzero(abs(question) > _FLOOR * abs(question).max())
    return question[loud[0] : loud[-1] + 1]


def _quietest(question: Samples) -> int:
    """The sample in the middle third around which the least is heard: between two words, mostly."""
    width = round(_DIP_S * SAMPLE_RATE_HZ)
    power = np.convolve(question**2, np.ones(width), mode="same")
    third = len(question) // 3
    return third + int(np.argmin(power[third : 2 * third]))


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)


def _seconds(samples: Samples) -> float:
    return len(samples) / SAMPLE_RATE_HZ


def _write_sound(folder: Path, name: str, parts: list[Samples]) -> None:
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / f"{name}.wav", np.concatenate(parts))


def _write_json(path: Path, content: object) -> None:
    with whole_file(path) as temporary, naming(path):
        temporary.write_text(json.dumps(content), encoding="utf-8")
