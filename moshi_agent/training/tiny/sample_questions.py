"""Renders the sample questions of the package: each question that the built-in model knows, asked once.

The voices are settings that training draws from, so this is how the model is meant to be heard;
`evaluation` measures it with others. Run as `python -m moshi_agent.training.tiny.sample_questions [FOLDER]`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import soundfile as sf

from moshi_agent.training.tiny.phrases import Phrases, load_phrases
from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Audio, Voice, synthesise

QUESTIONS_FOLDER = Path(__file__).parents[2] / "assets" / "questions"
INDEX_FILE = "index.json"
SHOWCASE = "What is your name?"  # asked by `moshi-agent run` without arguments
LEAD_IN_S = 0.3
LEAD_OUT_S = 0.7

# Values of the training grid, of moderate speed and pitch.
VOICES = (
    Voice(engine="flite", name="rms", speed=1.04, tract=1.06),
    Voice(engine="espeak-ng", name="en-us+f3", speed=0.96, pitch=56, tract=1.0),
    Voice(engine="flite", name="awb", speed=0.96, pitch=120, tract=1.0),
    Voice(engine="flite", name="kal16", speed=0.96, pitch=108, tract=1.0),
    Voice(engine="flite", name="awb", speed=1.04, pitch=172, tract=1.12),
    Voice(engine="espeak-ng", name="en+m3", speed=0.96, pitch=44, tract=1.0),
    Voice(engine="flite", name="rms", speed=0.96, tract=0.94),
)

# In its turn's voice this one is not told apart from another question.
OTHER_VOICES = {"Hello there.": Voice(engine="espeak-ng", name="en-us+f2", speed=0.96, pitch=56, tract=1.0)}


def write_sample_questions(folder: Path = QUESTIONS_FOLDER, phrases: Phrases | None = None) -> None:
    """Writes a FLAC file for each question, 24 kHz mono, and `index.json`, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, str]] = []
    for number, text in enumerate(_in_order(phrases or load_phrases())):
        name = f"{number + 1:02}-{_slug(text)}.flac"
        audio = _framed(synthesise(text, OTHER_VOICES.get(text, VOICES[number % len(VOICES)])))
        sf.write(folder / name, audio, SAMPLE_RATE_HZ, subtype="PCM_16")
        entries.append({"file": name, "text": text})
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    (folder / INDEX_FILE).write_text(f"[\n  {lines}\n]\n", encoding="utf-8")


def _in_order(phrases: Phrases) -> list[str]:
    texts = [exchange.question for exchange in phrases.exchanges]
    return sorted(texts, key=lambda text: text != SHOWCASE)


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _framed(speech: Audio) -> Audio:
    """Speech between two silences: nobody speaks from the first sample of a call on."""
    before, after = (np.zeros(int(s * SAMPLE_RATE_HZ), np.float32) for s in (LEAD_IN_S, LEAD_OUT_S))
    return np.concatenate([before, speech, after])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=QUESTIONS_FOLDER)
def main(folder: Path) -> None:
    """Render the sample questions into FOLDER, by default the package's own."""
    write_sample_questions(folder)


if __name__ == "__main__":
    main()
