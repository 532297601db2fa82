"""OpenAI's Whisper as a recogniser, run by faster-whisper."""

from __future__ import annotations

from typing import cast

import soxr
from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]
from faster_whisper.utils import available_models  # pyright: ignore[reportMissingImports]

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.errors import ConfigError
from moshi_agent.training.annotation.placed_word import PlacedWord

_RATE_HZ = 16_000


class WhisperRecogniser:
    """Finds words by Whisper, timed by its attention to the sound: mostly within 0.1 s.

    Silence is cut out first, by Silero's voice activity, which faster-whisper brings: Whisper makes up words
    in silence.

    Args:
        model: a size (`tiny` to `large-v3`), or a repository of Hugging Face or a folder with a model in
            CTranslate2's format.
        language: a code such as `en`; None finds it out for each file.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, model: str = "medium", *, language: str | None = None, device: str = "cpu") -> None:
        kind, _, index = device.partition(":")
        try:
            self._model = WhisperModel(model, device=kind, device_index=int(index or 0))
        except Exception as error:  # a failed transfer raises what the network library of the day raises
            raise ConfigError(
                f"the Whisper model {model!r} cannot be loaded ({error!s:.200}); accepted: a folder, "
                f"a repository, or one of {', '.join(available_models())}"
            ) from error
        self._language = language

    def __call__(self, samples: Samples, /) -> list[PlacedWord]:
        """See `Recogniser`."""
        audio = cast("Samples", soxr.resample(samples, SAMPLE_RATE_HZ, _RATE_HZ))
        segments, _ = self._model.transcribe(
            audio,
            language=self._language,
            word_timestamps=True,
            vad_filter=True,
            condition_on_previous_text=False,  # or a mistake goes on through the file
        )
        return [
            PlacedWord(word.word, float(word.start), float(word.end))
            for segment in segments
            for word in segment.words or ()
        ]
