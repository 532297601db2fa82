"""Pictures of an evaluation as SVG: both sides of a sample over time, and how a measure is distributed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from moshi_agent.audio.framing import Samples
from moshi_agent.evaluation.samples import Sample
from moshi_agent.evaluation.sounds import model_sound, user_sound
from moshi_agent.evaluation.words import SpokenWord, WordSource, read_words, words_path

_WIDTH = 900
_SIDE = 44  # pixels of height for each of the two
_TEXT = 14
_LETTER = 6.2  # pixels of width, about, with the space behind a word
_WORD_LINES = 2
_COLUMNS = 300  # of a picture of sound
_BARS = 20
_BAR_HEIGHT = 60


def timeline(sample: Sample) -> str:
    """Draws the user above and the model below, the model's words, and when the sample's event is.

    Raises:
        AudioError, DataError: a file that is missing or of another form.
    """
    sides = [("output", *model_sound(sample))]
    if sample.inputs:
        sides.append(("input", *user_sound(sample)))
    longest_s = max(len(sound) / rate_hz for _, sound, rate_hz in sides)
    scale = _WIDTH / longest_s  # pixels a second
    height = 2 * _SIDE + (1 + _WORD_LINES) * _TEXT
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">']
    event = sample.event_s()
    if event is not None:
        width = max(2.0, (event[1] - event[0]) * scale)
        parts.append(
            f'<rect class="event" x="{event[0] * scale:.1f}" y="0" width="{width:.1f}" height="{height}"/>'
        )
    for name, sound, rate_hz in sides:
        top = 0 if name == "input" else _SIDE
        parts.append(_envelope(sound, len(sound) / rate_hz * scale, top, name))
    parts += word_texts(_words_of(sample), scale)
    parts += [
        f'<text class="second" x="{second * scale:.1f}" y="{height - 2}">{second}</text>'
        for second in range(0, int(longest_s) + 1, max(1, int(longest_s / 20)))
    ]
    return "".join([*parts, "</svg>"])


def histogram(name: str, values: Sequence[float], unit: str) -> str:
    """Draws how often a measure has which value."""
    counts, edges = np.histogram(values, bins=_BARS)
    step, most = _WIDTH / 3 / _BARS, max(1, int(counts.max()))
    bars = [
        f'<rect class="bar" x="{number * step:.1f}" y="{_BAR_HEIGHT * (1 - count / most):.1f}" '
        f'width="{step - 1:.1f}" height="{_BAR_HEIGHT * count / most:.1f}"/>'
        for number, count in enumerate(counts.tolist())
    ]
    bars.append(f'<line class="axis" x1="0" x2="{_WIDTH // 3}" y1="{_BAR_HEIGHT}" y2="{_BAR_HEIGHT}"/>')
    height = _BAR_HEIGHT + 2 * _TEXT
    return (
        f'<svg viewBox="0 0 {_WIDTH // 3} {height}" width="{_WIDTH // 3}" height="{height}">{"".join(bars)}'
        f'<text x="0" y="{_BAR_HEIGHT + _TEXT}">{edges[0]:.2f}</text>'
        f'<text x="{_WIDTH // 3}" y="{_BAR_HEIGHT + _TEXT}" text-anchor="end">{edges[-1]:.2f} {unit}</text>'
        f'<text x="{_WIDTH // 6}" y="{height - 2}" text-anchor="middle">{escape(name)}</text></svg>'
    )


def _envelope(sound: Samples, width: float, top: float, kind: str) -> str:
    """The peaks of [N] as a shape around the middle of its side."""
    columns = min(_COLUMNS, len(sound))
    starts = np.linspace(0, len(sound), columns, endpoint=False, dtype=int)
    peaks = np.maximum.reduceat(abs(sound), starts).clip(0, 1)
    middle, half = top + _SIDE / 2, _SIDE / 2 - 2
    places = np.linspace(0, width, columns)
    above = [f"{x:.1f},{middle - half * peak:.1f}" for x, peak in zip(places, peaks, strict=True)]
    below = [f"{x:.1f},{middle + half * peak:.1f}" for x, peak in zip(places[::-1], peaks[::-1], strict=True)]
    return f'<polygon class="{kind}" points="{" ".join(above + below)}"/>'


def _words_of(sample: Sample) -> list[SpokenWord]:
    sources: tuple[WordSource, ...] = ("monologue", "recogniser")
    paths = [words_path(sample.folder, "output", source) for source in sources]
    return next((read_words(path) for path in paths if path.exists()), [])


def word_texts(words: Sequence[SpokenWord], scale: float) -> list[str]:
    """The words below the model's side; one that would lie on the word before goes a line further down."""
    texts: list[str] = []
    ends = [0.0] * _WORD_LINES  # of the last word in each line, in pixels
    for word in words:
        x, text = word.start_s * scale, word.text.strip()
        line = next((line for line, end in enumerate(ends) if end <= x), ends.index(min(ends)))
        ends[line] = x + _LETTER * len(text)
        y = 2 * _SIDE + (1 + line) * _TEXT - 3
        texts.append(f'<text class="word" x="{x:.1f}" y="{y}">{escape(text)}</text>')
    return texts
