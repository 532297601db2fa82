"""The sounds of a sample: files of one side each, or the two channels of a recorded call."""

from __future__ import annotations

from moshi_agent.audio.framing import Samples
from moshi_agent.evaluation.samples import Sample
from moshi_agent.evaluation.speech_spans import read_mono

_MODEL, _USER = 0, 1  # the channels of a call


def user_sound(sample: Sample) -> tuple[Samples, int]:
    """Reads what the user says, [N], and its rate. Raises AudioError where it is missing or damaged."""
    if sample.task == "call":
        return read_mono(sample.folder / "call.wav", _USER)
    return read_mono(sample.folder / "input.wav")


def model_sound(sample: Sample) -> tuple[Samples, int]:
    """Reads what the model says, [N], and its rate; of a call that was not answered anew, the bot's side.

    Raises:
        AudioError: it is missing or damaged.
    """
    output = sample.folder / "output.wav"
    if sample.task == "call" and not output.exists():
        return read_mono(sample.folder / "call.wav", _MODEL)
    return read_mono(output)
