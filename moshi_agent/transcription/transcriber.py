"""Runs one stream of audio through a recogniser, from beginning to end."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from moshi_agent.audio.files import audio_blocks
from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ, Framer, Samples
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.checkpoint.recogniser import Recogniser
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.microphone import Pcm, to_float32
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.errors import InputError
from moshi_agent.text.timed_reader import Pause, PauseConfig, TimedPiece, TimedReader
from moshi_agent.text.word_tracker import TimedWord

if TYPE_CHECKING:
    from moshi_agent.checkpoint import Checkpoint

TranscriptPart = TimedPiece | TimedWord | Pause

_ROW = 0
_REST_S = 1.0  # of silence heard after the end, beyond the model's delay


class Transcriber:
    """Writes down one stream of audio, while it comes.

    Memory does not grow with its length. For another stream, call `reset`.

    Args:
        checkpoint: of a recogniser, from `load_checkpoint`.
        pauses: when they are told.

    Raises:
        ConfigError: the checkpoint is of another kind.
    """

    def __init__(self, checkpoint: Checkpoint, pauses: PauseConfig | None = None) -> None:
        self.recogniser = Recogniser.of(checkpoint)
        self._tokenizer = checkpoint.tokenizer
        self._pauses = pauses
        self._step = FrameStep(checkpoint, rows=1)
        self.reset()

    def reset(self) -> None:
        """Begins another stream."""
        recogniser = self.recogniser
        assert self._tokenizer is not None
        self._step.begin_row(_ROW, SamplingConfig(greedy=True))
        self._step.run([RowInput(row=_ROW, pcm=None)])  # the model's own first step, which hears nothing
        self._reader = TimedReader(
            self._tokenizer, recogniser.delay_s, start_s=-recogniser.prefix_s, pauses=self._pauses
        )
        self._framer = Framer(FRAME_SAMPLES)
        self._rate_hz: int | None = None
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        self._frames = 0
        self._is_over = False
        self._audio_s = 0.0

    @property
    def audio_s(self) -> float:
        """Counts the seconds of audio so far."""
        return self._audio_s

    def push(self, pcm: Pcm, sample_rate: int = SAMPLE_RATE_HZ) -> list[TranscriptPart]:
        """Hears a chunk of any length. Returns what has become known with it, in order.

        Args:
            pcm: [N] float32, [N] int16, or bytes of little-endian int16; mono.
            sample_rate: in Hz, the same for the whole stream.

        Raises:
            AudioError: audio of another form.
            InputError: another rate than before, or a stream that is over.
        """
        if self._is_over:
            raise InputError("the stream is over; accepted: audio after `reset`")
        samples, parts = to_float32(pcm, sample_rate), list[TranscriptPart]()
        if self._rate_hz is None:
            self._rate_hz, self._resampler = sample_rate, StreamResampler(sample_rate, SAMPLE_RATE_HZ)
            parts += self._hear(_silence(self.recogniser.prefix_s))
        if sample_rate != self._rate_hz:
            raise InputError(f"audio at {sample_rate} Hz; accepted: {self._rate_hz} Hz, as before")
        self._audio_s += len(samples) / sample_rate
        return [*parts, *self._hear(self._resampler.push(samples))]

    def finish(self) -> list[TranscriptPart]:
        """Ends the stream and returns the rest. Audio may be pushed again after `reset`."""
        if self._is_over or self._rate_hz is None:
            self._is_over = True
            return []
        silence = _silence(self.recogniser.delay_s + _REST_S)
        parts = self._hear(np.concatenate([self._resampler.flush(), silence]))
        self._is_over = True
        return [*parts, *self._reader.finish(self._frames)]

    def stream(
        self, chunks: Iterable[Samples], sample_rate: int = SAMPLE_RATE_HZ
    ) -> Iterator[TranscriptPart]:
        """Gives everything that becomes known with the chunks of a stream, [N] each."""
        for chunk in chunks:
            yield from self.push(chunk, sample_rate)
        yield from self.finish()

    def _hear(self, samples: Samples) -> list[TranscriptPart]:
        """[N] at 24 kHz."""
        parts: list[TranscriptPart] = []
        for frame in self._framer.push(samples):
            [output] = self._step.run([RowInput(row=_ROW, pcm=frame)])
            heard = self._reader.read(self._frames, output.next_text, output.heads)
            self._frames += 1
            parts += [part for part in (heard.piece, *heard.words, heard.pause) if part is not None]
        return parts


def transcribe_file(path: str | os.PathLike[str], transcriber: Transcriber) -> Generator[TranscriptPart]:
    """Writes down an audio file as it is read: a block at a time, however long it is.

    Raises:
        AudioError: as `read_audio`. What was read before is given out first.
    """
    transcriber.reset()
    yield from transcriber.stream(audio_blocks(path))


def _silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)
