"""Recognisers: real words at their real times, and clear errors for those that cannot be had."""

from __future__ import annotations

import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.training.annotation.recogniser import open_recogniser
from tests.recogniser_model import write_recogniser_checkpoint
from tests.training.annotation.spoken_material import call

flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite makes the speech")


@flite
def test_pocketsphinx_hears_the_words_when_they_are_said() -> None:
    pytest.importorskip("pocketsphinx")
    recogniser = open_recogniser("pocketsphinx")
    for _ in range(2):  # nothing is kept from one recording to the next
        samples, words = call("It is nice to talk with you.", "One, two, three, four, five.")
        heard = list(recogniser(samples))
        assert [word for word, _, _ in heard] == [word.lower().strip(".,") for word, _, _ in words]
        for (_, start_s, end_s), (_, true_start_s, true_end_s) in zip(heard, words, strict=True):
            assert start_s == pytest.approx(true_start_s, abs=0.15)
            assert end_s == pytest.approx(true_end_s, abs=0.15)


def test_pocketsphinx_hears_nothing_in_silence_and_only_english() -> None:
    pytest.importorskip("pocketsphinx")
    recogniser = open_recogniser("pocketsphinx", language="en")
    assert list(recogniser(np.zeros(24_000, np.float32))) == []
    with pytest.raises(ConfigError, match="'fr'"):
        open_recogniser("pocketsphinx", language="fr")


@flite
def test_whisper_gives_words_in_order_and_only_where_somebody_speaks(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    from tests.training.annotation.tiny_whisper import write_tiny_whisper

    recogniser = open_recogniser(f"whisper:{write_tiny_whisper(tmp_path / 'whisper')}", language="en")
    samples, words = call("One, two, three, four, five.")
    heard = list(recogniser(samples))  # nonsense: the weights are random
    assert len(heard) > 2
    assert all(word.strip() and start_s <= end_s for word, start_s, end_s in heard)
    for (_, start_s, _), (_, next_start_s, _) in pairwise(heard):
        assert start_s <= next_start_s
    assert heard[0][1] >= words[0][1] - 0.6
    assert heard[-1][2] <= len(samples) / 24_000 + 0.5
    assert list(recogniser(np.zeros(48_000, np.float32))) == []


def test_a_whisper_model_that_is_missing_is_named(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    for model in ("gigantic", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"(?s)cannot be loaded.*large-v3"):
            open_recogniser(f"whisper:{model}")


def test_kyutais_recogniser_gives_words_inside_the_audio(tmp_path: Path) -> None:
    recogniser = open_recogniser(f"kyutai-stt:{write_recogniser_checkpoint(tmp_path / 'stt')}")
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * 24_000).astype(np.float32)
    first, second = list(recogniser(noise)), list(recogniser(noise))
    assert first == second and len(first) > 1
    assert all(word.strip() and start_s <= end_s < 5 for word, start_s, end_s in first)
    with pytest.raises(CheckpointError):
        open_recogniser(f"kyutai-stt:{tmp_path / 'nothing'}")


def test_a_recogniser_of_ones_own_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_ears.py").write_text(
        "def once(samples):\n    return [('once', 0.0, len(samples) / 24000)]\n"
        "class Twice:\n    def __call__(self, samples):\n        return once(samples) * 2\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    second = np.zeros(24_000, np.float32)
    assert list(open_recogniser("my_ears:once")(second)) == [("once", 0.0, 1.0)]
    assert len(list(open_recogniser("my_ears:Twice")(second))) == 2
    for wrong in ("my_ears:number", "my_ears:missing", "no_such_module:x"):
        with pytest.raises(ConfigError, match=wrong):
            open_recogniser(wrong)
    sys.modules.pop("my_ears")


@pytest.mark.parametrize("name", ["", "wisper", "kyutai-stt", ":x", "module:"])
def test_an_unknown_name_is_refused_with_those_accepted(name: str) -> None:
    with pytest.raises(ConfigError, match="accepted: whisper"):
        open_recogniser(name)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    monkeypatch.delitem(sys.modules, "moshi_agent.training.annotation.sphinx", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'moshi-agent\[annotate\]'"):
        open_recogniser("pocketsphinx")
