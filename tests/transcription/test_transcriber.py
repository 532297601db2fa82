"""One stream of audio written down, on the small recogniser. What it writes is compared in `parity`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from moshi_agent import AudioError, ConfigError, InputError, load_checkpoint
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.text.word_tracker import TimedWord
from moshi_agent.transcription import Pause, PauseConfig, Recogniser, TimedPiece, Transcriber, transcribe_file
from tests.recogniser_model import write_recogniser_checkpoint

NOISE = np.random.default_rng(0).normal(0, 0.1, 3 * 24_000).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(write_recogniser_checkpoint(tmp_path_factory.mktemp("stt")), pack="auto")


@pytest.fixture
def transcriber(checkpoint: Checkpoint) -> Transcriber:
    return Transcriber(checkpoint, PauseConfig(threshold=0.3, hold_frames=1))


def test_the_checkpoint_says_how_it_is_used(checkpoint: Checkpoint) -> None:
    recogniser = Recogniser.of(checkpoint)
    assert (recogniser.delay_s, recogniser.prefix_s, recogniser.pause_heads) == (0.5, 0.3, 4)


def test_any_number_type_is_heard_alike_and_chunks_do_not_matter(transcriber: Transcriber) -> None:
    whole = (NOISE * 32768).round().clip(-32768, 32767).astype(np.int16)
    expected = list(transcriber.stream([whole.astype(np.float32) / 32768]))
    kinds = {type(part) for part in expected}
    assert kinds == {TimedPiece, TimedWord, Pause}
    transcriber.reset()
    pushed = [
        part for start in range(0, len(whole), 777) for part in transcriber.push(whole[start : start + 777])
    ]
    assert pushed + transcriber.finish() == expected
    transcriber.reset()
    assert transcriber.push(whole.tobytes()) + transcriber.finish() == expected


def test_words_lie_within_the_audio_in_order(transcriber: Transcriber) -> None:
    words = [part for part in transcriber.stream([NOISE]) if isinstance(part, TimedWord)]
    assert len(words) > 5
    assert all(word.start <= word.end <= word.start + 1 for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert words[-1].end <= 3 + 1.1  # the silence that is heard after the audio


def test_other_rates_are_resampled(transcriber: Transcriber) -> None:
    transcriber.push(NOISE[:8000], 8000)
    assert transcriber.audio_s == 1.0
    with pytest.raises(InputError, match="8000 Hz, as before"):
        transcriber.push(NOISE[:8000], 16_000)


def test_a_stream_is_over_until_it_is_reset(transcriber: Transcriber) -> None:
    first = list(transcriber.stream([NOISE]))
    assert transcriber.finish() == []
    with pytest.raises(InputError, match="reset"):
        transcriber.push(NOISE)
    transcriber.reset()
    assert list(transcriber.stream([NOISE])) == first
    transcriber.reset()
    assert transcriber.finish() == []  # nothing was heard


def test_a_file_is_read_as_it_is_written_down(transcriber: Transcriber, tmp_path: Path) -> None:
    sf.write(tmp_path / "in.wav", NOISE, 24_000, subtype="FLOAT")
    assert list(transcribe_file(tmp_path / "in.wav", transcriber)) == list(_again(transcriber, NOISE))
    with pytest.raises(AudioError, match="no file"):
        next(transcribe_file(tmp_path / "missing.wav", transcriber))


def _again(transcriber: Transcriber, samples: NDArray[np.float32]) -> list[object]:
    transcriber.reset()
    return list(transcriber.stream([samples]))


def test_a_model_that_speaks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"tiny is a model of type 'moshi', which speaks.*kyutai/stt"):
        Transcriber(load_checkpoint("tiny"))


def test_a_recogniser_without_a_tokenizer_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="without a sentencepiece model"):
        Transcriber(replace(checkpoint, tokenizer=None))
    with pytest.raises(ConfigError, match="a codec alone"):
        Transcriber(replace(checkpoint, lm=None))


@pytest.mark.parametrize("seconds", [-1, "long", float("nan"), True, 1000])
def test_a_delay_that_is_none_is_refused(checkpoint: Checkpoint, seconds: object) -> None:
    with pytest.raises(ConfigError, match="audio_delay_seconds"):
        Recogniser.of(replace(checkpoint, stt_config={"audio_delay_seconds": seconds}))
