"""CMU PocketSphinx as a recogniser: small, English, with its model in the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import numpy as np
import soxr
from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.errors import ConfigError
from moshi_agent.training.annotation.placed_word import PlacedWord
from moshi_agent.training.annotation.speech_spans import Span, speech_spans

_RATE_HZ = 16_000
_FRAMES_PER_S = 100
_MARGIN_S = 0.2
_NO_WORD = re.compile(r"^[<\[+].*[>\]+]$")  # <sil>, [NOISE], +UM+
_VARIANT = re.compile(r"\(\d+\)$")  # of the pronunciation


class SphinxRecogniser:
    """Finds words by PocketSphinx, lower-case and without punctuation.

    It suits clear read speech, and trials: of other speech it understands much less than Whisper. With a
    grammar it hears nothing else, and that much better.

    Args:
        language: `en`, or None.
        grammar: of all that may be said, in JSGF (https://www.w3.org/TR/jsgf/), of words that its dictionary
            has.

    Raises:
        ConfigError: a language other than English, or a grammar that cannot be read.
    """

    def __init__(self, *, language: str | None = None, grammar: str | None = None) -> None:
        if language not in (None, "en"):
            raise ConfigError(f"pocketsphinx understands English (en), not {language!r}")
        if grammar is None:
            self._decoder = Decoder(samprate=_RATE_HZ, loglevel="FATAL")
            return
        self._decoder = Decoder(samprate=_RATE_HZ, loglevel="FATAL", lm=None)
        try:
            self._decoder.add_jsgf_string("grammar", grammar)
            self._decoder.activate_search("grammar")
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"the grammar cannot be read ({error}); accepted: JSGF") from error

    def __call__(self, samples: Samples, /) -> Iterator[PlacedWord]:
        """See `Recogniser`."""
        length_s = len(samples) / SAMPLE_RATE_HZ
        for span in speech_spans(samples, bridge_s=0.5):
            start_s = max(span.start_s - _MARGIN_S, 0)
            wider = Span(start_s, min(span.end_s + _MARGIN_S, length_s))
            yield from self._words(samples, wider)

    def _words(self, samples: Samples, span: Span) -> Iterator[PlacedWord]:
        piece = samples[round(span.start_s * SAMPLE_RATE_HZ) : round(span.end_s * SAMPLE_RATE_HZ)]
        audio = cast("Samples", soxr.resample(piece, SAMPLE_RATE_HZ, _RATE_HZ))
        pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        self._decoder.end_utt()
        for segment in self._decoder.seg() or ():
            if not _NO_WORD.match(segment.word):
                start_s = span.start_s + segment.start_frame / _FRAMES_PER_S
                end_s = span.start_s + (segment.end_frame + 1) / _FRAMES_PER_S
                yield PlacedWord(_VARIANT.sub("", segment.word), start_s, end_s)
