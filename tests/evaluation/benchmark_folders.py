"""Folders in the benchmark's layout with outputs of all kinds, the same whenever they are made.

Whatever is spoken in them are pieces of the sample questions. Words are drawn: some turns, some backchannels,
some at the very edges of the rules.
"""

from __future__ import annotations

import json
import wave
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

import moshi_agent

RATE_HZ = 24_000
PAUSES, TURNS, INTERRUPTIONS, BACKCHANNELS, OVERLAPS = 40, 40, 30, 10, 6
_HELLO = Path(__file__).parents[1] / "golden" / "evaluation" / "hello-there.flac"
_TAGS = ("C_RESPOND", "C_RESUME", "C_UNCERTAIN_HANDLING", "C_UNKNOWN")


def make_folders(root: Path) -> None:
    """Writes every data set, a folder each, and the reference of backchannels."""
    for number in range(PAUSES):
        random = Random(number)
        ends = number % 5 != 0
        _write(root / "pauses" / str(number), "output", _words(random, last_end=ends))
        _json(
            root / "pauses" / str(number) / "pause.json", [{"text": "[PAUSE]", "timestamp": _times(random)}]
        )
    for number in range(TURNS):
        random = Random(1000 + number)
        _write(root / "turns" / str(number), "output", _words(random))
        turn = [{"text": "[TURN-TAKING]", "timestamp": _times(random)}]
        _json(root / "turns" / str(number) / "turn_taking.json", turn)
    for number in range(INTERRUPTIONS):
        random = Random(2000 + number)
        _write(root / "interruptions" / str(number), "output", _words(random))
        texts = {"context": f"question {number}", "interrupt": f"another {number}"}
        interruption = [{**texts, "timestamp": _times(random)}]
        _json(root / "interruptions" / str(number) / "interrupt.json", interruption)
    _make_backchannels(root)
    _make_overlaps(root)
    for folder in root.glob("[pti]*/*"):  # none is looked into, but every sample has one
        write_wav(folder / "output.wav", np.zeros(1, np.float32))


def _make_backchannels(root: Path) -> None:
    reference: dict[str, list[float]] = {}
    for number in range(BACKCHANNELS):
        random, folder = Random(3000 + number), root / "backchannels" / str(number)
        sounds = [_piece(random, random.choice([0.35, 0.5, 0.8])) for _ in range(number % 4)]
        if number % 5 == 4:
            sounds.append(_piece(random, 6.0))
        sound = _with_pauses(random, sounds, 1.5)
        seconds = len(sound) / RATE_HZ
        spoken = [_word(random, at) for at in sorted(random.uniform(0, 1.6 * seconds) for _ in range(8))]
        _write(folder, "output", spoken if number else [])
        # As if recorded more slowly in some: not all outputs have the rate of others.
        write_wav(folder / "output.wav", sound, 16_000 if number % 2 else RATE_HZ)
        shares = [random.random() for _ in range(random.randrange(20, 200))]
        reference[str(number)] = [share / sum(shares) for share in shares]
    _json(root / "icc_gt_distribution.json", reference)


def _make_overlaps(root: Path) -> None:
    for number in range(OVERLAPS):
        random, folder = Random(4000 + number), root / "overlaps" / str(number)
        for name, most_s in (("input", 2.5), ("output", 4.0)):
            sounds = [_piece(random, random.uniform(0.4, most_s)) for _ in range(3)]
            pause_s = random.choice([0.3, 0.55, 1.2])
            write_wav(
                folder / f"{name}.wav",
                _with_pauses(random, sounds, pause_s),
                16_000 if number % 3 == 0 else RATE_HZ,
            )
        write_wav(folder / "clean_input.wav", np.zeros(1, np.float32))
        for name in ("input", "clean_input", "output", "clean_output"):
            _write(folder, name, _words(random))
        _json(
            folder / "metadata.json", {"context_text": "", "current_turn_text": "", "timestamps": [2.0, 3.0]}
        )


def rating_of(reply: str) -> int:
    """What the judge of the tests thinks of a reply."""
    return len(reply) % 6


def behavior_of(words: int) -> str:
    """How the judge of the tests sorts an output of so many words."""
    return _TAGS[words % 4]


def write_wav(path: Path, samples: NDArray[np.float32], rate_hz: int = RATE_HZ) -> None:
    """Writes [N] as 16-bit mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())


def _piece(random: Random, seconds: float) -> NDArray[np.float32]:
    """Speech of this length: from the middle of a question, and more of them where it is too short."""
    import soundfile as sf

    questions = sorted((Path(moshi_agent.__file__).parent / "assets" / "questions").glob("*.flac"))
    questions[1] = _HELLO  # as it was when the golden results were made
    speech = np.zeros(0, np.float32)
    while len(speech) < seconds * RATE_HZ:
        question, rate_hz = sf.read(random.choice(questions), dtype="float32")
        assert rate_hz == RATE_HZ
        loud = np.flatnonzero(abs(question) > 0.05)
        speech = np.concatenate([speech, question[loud[0] : loud[-1]]])
    return speech[: int(seconds * RATE_HZ)]


def _with_pauses(random: Random, sounds: list[NDArray[np.float32]], pause_s: float) -> NDArray[np.float32]:
    parts = [np.zeros(int(random.uniform(0.3, 2.0) * RATE_HZ), np.float32)]
    for sound in sounds:
        parts += [sound, np.zeros(int(random.uniform(0.8, 1.2) * pause_s * RATE_HZ), np.float32)]
    return np.concatenate(parts)


def _words(random: Random, *, last_end: bool = True) -> list[dict[str, Any]]:
    """None, a few quick ones, or a turn."""
    count = random.choice([0, 1, 2, 3, 4, 5, 12])
    at_s = random.uniform(0, 8)
    words: list[dict[str, Any]] = []
    for _ in range(count):
        word = _word(random, at_s)
        words.append(word)
        at_s = word["timestamp"][1] + random.choice([0.0, 0.02, 0.4])
    if words and not last_end:
        words[-1]["timestamp"][1] = None
    return words


def _word(random: Random, at_s: float) -> dict[str, Any]:
    lasts_s = random.choice([0.0, 0.08, 0.16, 0.24, 0.4])
    return {"text": f"w{random.randrange(1000)}", "timestamp": [round(at_s, 2), round(at_s + lasts_s, 2)]}


def _times(random: Random) -> list[float]:
    start_s = round(random.uniform(0, 8), 2)
    return [start_s, round(start_s + random.uniform(0.2, 2), 2)]


def _write(folder: Path, name: str, words: list[dict[str, Any]]) -> None:
    text = " ".join(word["text"] for word in words)
    _json(folder / f"{name}.json", {"text": text, "chunks": words})


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
