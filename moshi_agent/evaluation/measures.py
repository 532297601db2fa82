"""The measures of one sample, by its task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moshi_agent.audio.framing import Samples
from moshi_agent.errors import DataError
from moshi_agent.evaluation.backchannel import divergence, find_backchannels
from moshi_agent.evaluation.judge import BEHAVIORS, Judge
from moshi_agent.evaluation.samples import Sample
from moshi_agent.evaluation.sounds import model_sound, user_sound
from moshi_agent.evaluation.speech_spans import Span, SpeechDetector, at_detector_rate
from moshi_agent.evaluation.take_over import latency_s, takes_turn, words_after
from moshi_agent.evaluation.timing import MODEL_PAUSE_S, USER_PAUSE_S, joined, overlaps, response_gaps
from moshi_agent.evaluation.words import (
    SpokenWord,
    WordSource,
    read_json,
    read_words,
    text_of_words,
    words_path,
)
from moshi_agent.outputs import naming, whole_file

TAKE_OVER = "take-over rate"
LATENCY = "latency"
RATING = "rating"
FREQUENCY = "backchannels"
DIVERGENCE = "divergence"
STOP = "stop latency"
RESPONSE = "response latency"

Values = dict[str, list[float]]  # of each measure; some come more or less often than once in a sample


@dataclass(frozen=True)
class Measurer:
    """Measures samples.

    Args:
        reference: when people give backchannels, by the number of the sample; without, no divergence.
        judge: without one, what needs a judge is left out.
    """

    reference: Mapping[str, Sequence[float]] | None = None
    judge: Judge | None = None

    def prepare(self, samples: Iterable[Sample]) -> None:
        """Loads what the measures of the samples need.

        Raises:
            ConfigError: the detection of speech is not installed.
        """
        if any(sample.task in ("backchannel", "overlap", "call") for sample in samples):
            self._detector  # noqa: B018 - loaded when it is first asked for

    def of_words(self, sample: Sample, source: WordSource) -> Values:
        """Measures what can be seen by the model's words.

        Raises:
            AudioError, DataError: a file that is missing or of another form; a judge that gives no answer.
            ConfigError: the detection of speech is not installed.
        """
        words = read_words(words_path(sample.folder, "output", source))
        match sample.task:
            case "pause_handling":
                return {TAKE_OVER: [float(takes_turn(words))]}
            case "smooth_turn_taking":
                return _turn(words, _event(sample)[0])
            case "user_interruption":
                return self._interruption(sample, words, source)
            case "backchannel":
                return self._backchannel(sample, words)
            case "overlap":
                return self._behavior(sample, source)
            case "call":
                return {}

    def of_sound(self, sample: Sample) -> Values:
        """Measures what the sound alone shows: of overlaps and recorded calls. Raises as `of_words` does."""
        if sample.task not in ("overlap", "call"):
            return {}
        user = joined(self._speech(*user_sound(sample)), USER_PAUSE_S)
        model = joined(self._speech(*model_sound(sample)), MODEL_PAUSE_S)
        stops, gaps = overlaps(user, model), response_gaps(user, model)
        _write_json(
            sample.folder / "latency_intervals.json", {"latency_stop_list": stops, "latency_resp_list": gaps}
        )
        return {STOP: [span.lasts_s for span in stops], RESPONSE: [span.lasts_s for span in gaps]}

    @cached_property
    def _detector(self) -> SpeechDetector:
        return SpeechDetector()

    def _speech(self, samples: Samples, rate_hz: int) -> list[Span]:
        return self._detector.spans(at_detector_rate(samples, rate_hz))

    def _interruption(self, sample: Sample, words: list[SpokenWord], source: WordSource) -> Values:
        end_s = _event(sample)[1]
        # The recogniser has heard nothing else.
        reply = words if source == "recogniser" else words_after(words, end_s)
        values = _turn(reply, end_s)
        if self.judge is not None and takes_turn(reply):
            rating, analysis = self.judge.rating(*sample.texts(), text_of_words(reply))
            if source == "recogniser":
                _write_json(sample.folder / "rating.json", {"analysis": analysis, "rating": rating})
            values[RATING] = [float(rating)]
        return values

    def _backchannel(self, sample: Sample, words: list[SpokenWord]) -> Values:
        samples, rate_hz = model_sound(sample)
        duration_s = len(samples) / rate_hz
        found = find_backchannels(self._detector.rounded_spans(samples), words)
        values = {TAKE_OVER: [float(found.takes_turn)], FREQUENCY: [len(found.spans) / duration_s]}
        if self.reference is not None:
            if sample.folder.name not in self.reference:
                raise DataError(f"the reference of backchannels has no sample {sample.folder.name}")
            people = self.reference[sample.folder.name]
            values[DIVERGENCE] = [divergence(found.spans, duration_s, people)]
        return values

    def _behavior(self, sample: Sample, source: WordSource) -> Values:
        if self.judge is None or source != "recogniser" or "clean_input" not in sample.inputs:
            return {}
        sounds = {
            "input_clean": "clean_input",
            "input_noisy": "input",
            "output_clean": "clean_output",
            "output_noisy": "output",
        }
        words = {key: read_words(sample.folder / f"{sound}.json") for key, sound in sounds.items()}
        behavior = self.judge.behavior(words)
        _write_json(sample.folder / "content_tag.json", {"behaviour": [behavior]})
        return {one: [float(one == behavior)] for one in BEHAVIORS}


def read_reference(path: Path) -> dict[str, list[float]]:
    """Reads the benchmark's `icc_gt_distribution.json`. Raises DataError where it is another file."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f'{path}: wanted is {{"0": [0.01, 0.02, ...], ...}}, a list for each sample')
    try:
        rows: dict[Any, Any] = dict(content)  # pyright: ignore[reportUnknownArgumentType]
        return {str(name): [float(share) for share in row] for name, row in rows.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: wanted is a list of numbers for each sample: {error}") from error


def _turn(words: Sequence[SpokenWord], user_end_s: float) -> Values:
    latency = latency_s(words, user_end_s)
    return {TAKE_OVER: [float(takes_turn(words))], LATENCY: [] if latency is None else [latency]}


def _event(sample: Sample) -> tuple[float, float]:
    event = sample.event_s()
    assert event is not None, "a task with an event"
    return event


def _write_json(path: Path, content: object) -> None:
    with whole_file(path) as temporary, naming(path):
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
