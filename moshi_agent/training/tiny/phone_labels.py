"""Which phone is heard when, as one label for every 20 ms, whatever engine spoke.

Training's encoder learns to tell phones apart with it. Labels are of the International Phonetic Alphabet as
espeak-ng and piper write it; flite's names are translated.
"""

# ruff: noqa: RUF001
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moshi_agent.training.tiny.piper_voice import Phone
from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ

STEP = SAMPLE_RATE_HZ // 50  # samples that a label stands for
UNKNOWN = -1
SILENCE = 0
SYMBOLS = "ɑæʌɔaəɛɚeɪɡioʊuɾbdðfhjklmnŋpɹsʃtθvwzʒ"
SAME = {"ɜ": "ɚ", "ɐ": "ə", "ᵻ": "ɪ", "r": "ɹ", "g": "ɡ"}
FLITE = {
    **{"aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "ay": "aɪ", "ch": "tʃ", "dh": "ð"},
    **{"eh": "ɛ", "er": "ɚ", "ey": "eɪ", "g": "ɡ", "hh": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ", "ng": "ŋ"},
    **{"ow": "oʊ", "oy": "ɔɪ", "r": "ɹ", "sh": "ʃ", "th": "θ", "uh": "ʊ", "uw": "u", "y": "j", "zh": "ʒ"},
}
STRESSES = "ˈˌ"
LONG = "ː"
PAUSE = "pau"
LABELS = 1 + len(SYMBOLS)

Labels = NDArray[np.int64]  # [steps]: UNKNOWN, SILENCE, or 1 + the index of a symbol


def phone_labels(phones: Sequence[Phone], samples: int) -> Labels:
    """The labels of an utterance of `samples`, int64 [ceil(samples / STEP)]; without phones all unknown."""
    labels = np.full(-(-samples // STEP), UNKNOWN, np.int64)
    middles_s = (np.arange(len(labels)) + 0.5) * STEP / SAMPLE_RATE_HZ
    start = 0.0
    waiting: float | None = None  # where a stress began: its time is that of the phone after it
    before = UNKNOWN
    for phone in phones:
        if phone.name in STRESSES:
            waiting = start if waiting is None else waiting
        elif phone.name == LONG:
            labels[(middles_s >= start) & (middles_s < phone.end)] = before
        else:
            begin = start if waiting is None else waiting
            before = _put(labels, middles_s, phone.name, begin, phone.end)
            waiting = None
        start = phone.end
    return labels


def _put(labels: Labels, middles_s: NDArray[np.float64], name: str, start: float, end: float) -> int:
    """Labels a phone's time, a diphthong's by halves; gives its last label."""
    parts = [SILENCE] if name == PAUSE else [_label(symbol) for symbol in FLITE.get(name, name)]
    edges = np.linspace(start, end, len(parts) + 1)
    for part, first, last in zip(parts, edges[:-1], edges[1:], strict=True):
        labels[(middles_s >= first) & (middles_s < last)] = part
    return parts[-1]


def _label(symbol: str) -> int:
    return SYMBOLS.find(SAME.get(symbol, symbol)) + 1 or UNKNOWN
