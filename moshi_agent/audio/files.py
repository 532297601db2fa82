"""Audio files: any of them in, at the model's rate; 16-bit wav out, whole or not at all."""

from __future__ import annotations

import os
import wave
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from moshi_agent.audio.decoding import Decoder, open_decoder
from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.audio.levels import FileLevels
from moshi_agent.errors import AudioError
from moshi_agent.outputs import naming, whole_file

_BLOCK_SAMPLES = 1 << 17  # of each channel, read at once
_LOWEST_RATE_HZ = 1_000
_HIGHEST_RATE_HZ = 768_000


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """Holds what a file says about itself before any of it is decoded."""

    channels: int
    duration_s: float


def read_audio(path: str | os.PathLike[str], sample_rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """Reads a wav, flac, ogg, mp3 or other audio file of any rate and channel count.

    A constant offset is taken out, and of two channels that cancel each other one is read; a warning says so.

    Returns:
        Its samples [N] at `sample_rate_hz`, float32, full scale 1.0, the mean of its channels.

    Raises:
        AudioError: it is missing, empty, no audio, truncated, damaged, in another scale than -1 to
            1, or has NaN or infinity in it.
    """
    source = Path(path)
    with _opened(source) as file:
        return _whole(source, file, sample_rate_hz, mono=True)


def audio_blocks(path: str | os.PathLike[str], sample_rate_hz: int = SAMPLE_RATE_HZ) -> Iterator[Samples]:
    """Reads a file as `read_audio` does, but block by block, [N], where it is too long for the memory.

    Raises AudioError as it does; where the damage is in the middle, after the blocks before it.
    """
    source, heard = Path(path), 0
    with _opened(source) as file:
        for block in _resampled(source, file, sample_rate_hz, mono=True):
            heard += len(block)
            yield block
    if not heard:
        raise AudioError(f"{source} has less than one sample of audio at {sample_rate_hz} Hz in it")


def read_channels(path: str | os.PathLike[str], sample_rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """Reads all channels, [N, channels], otherwise as `read_audio`, and with the same errors."""
    source = Path(path)
    with _opened(source) as file:
        samples = _whole(source, file, sample_rate_hz, mono=False)
        return samples if samples.ndim == 2 else samples[:, None]


def read_header(path: str | os.PathLike[str]) -> AudioHeader:
    """Reads what the file says about itself. Raises AudioError as `read_audio`, where the header shows it."""
    with _opened(Path(path)) as file:
        frames = _count(file) if file.frames is None else file.frames
        return AudioHeader(file.channels, frames / file.rate_hz)


def read_piece(
    path: str | os.PathLike[str],
    start_s: float,
    duration_s: float,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
) -> Samples:
    """Reads a piece from `start_s` on, otherwise as `read_audio`; a file that ends sooner gives less.

    Raises:
        AudioError: as `read_audio`, as far as the header and this piece show it.
    """
    source = Path(path)
    with _opened(source) as file:
        first = round(start_s * file.rate_hz)
        file.skip(first)
        block = file.read(round(duration_s * file.rate_hz))
        _check_finite(source, block, first, file.rate_hz)
        levels = FileLevels(source, file.rate_hz)
        mono = levels.mono(levels.mend(block))
        return cast("Samples", soxr.resample(mono, file.rate_hz, sample_rate_hz))


def _count(decoder: Decoder) -> int:
    """Decodes a file to its end and counts the samples of a channel."""
    frames = 0
    while length := len(decoder.read(_BLOCK_SAMPLES)):
        frames += length
    return frames


@contextmanager
def _opened(source: Path) -> Generator[Decoder]:
    """The file with its header checked; whatever fails to be read is an AudioError."""
    try:
        _check_readable(source)
        with closing(open_decoder(source)) as decoder:
            if not _LOWEST_RATE_HZ <= decoder.rate_hz <= _HIGHEST_RATE_HZ:
                accepted = f"{_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ} Hz"
                raise AudioError(
                    f"{source} has a sample rate of {decoder.rate_hz} Hz: {accepted} are accepted"
                )
            yield decoder
    except OSError as error:
        raise AudioError(f"{source} cannot be read: {error.strerror or error}") from error
    except sf.LibsndfileError as error:
        raise AudioError(f"{source} cannot be read as audio ({error.error_string.rstrip('.')})") from error


def _whole(source: Path, decoder: Decoder, sample_rate_hz: int, *, mono: bool) -> Samples:
    """[N] of the channels' mean or where there is one, else [N, channels]."""
    mono = mono or decoder.channels == 1
    samples = np.concatenate(list(_resampled(source, decoder, sample_rate_hz, mono)))
    if len(samples) == 0:
        raise AudioError(f"{source} has less than one sample of audio at {sample_rate_hz} Hz in it")
    return samples


def _check_readable(source: Path) -> None:
    if not source.exists():
        raise AudioError(f"there is no file {source}")
    if not source.is_file():
        raise AudioError(f"{source} is no file: an audio file is needed")
    if source.stat().st_size == 0:
        raise AudioError(f"{source} is empty: an audio file is needed")
    if not os.access(source, os.R_OK):
        raise AudioError(f"{source} cannot be read: no permission")


def _resampled(source: Path, decoder: Decoder, sample_rate_hz: int, mono: bool) -> Iterator[Samples]:
    """The blocks of the file at `sample_rate_hz`: [N] where `mono`, else [N, channels]."""
    channels = 1 if mono else decoder.channels
    resampler = soxr.ResampleStream(decoder.rate_hz, sample_rate_hz, num_channels=channels)
    levels, position = FileLevels(source, decoder.rate_hz), 0
    while len(block := decoder.read(_BLOCK_SAMPLES)):
        _check_finite(source, block, position, decoder.rate_hz)
        position += len(block)
        mended = levels.mend(block)
        yield resampler.resample_chunk(np.ascontiguousarray(levels.mono(mended) if mono else mended))
    levels.finish()
    rest = np.empty(0 if mono else (0, channels), np.float32)
    yield resampler.resample_chunk(rest, last=True)


def _check_finite(source: Path, block: Samples, position: int, sample_rate_hz: int) -> None:
    broken = np.argwhere(~np.isfinite(block))
    if len(broken):
        at_s = (position + int(broken[0, 0])) / sample_rate_hz
        raise AudioError(f"{source} has a sample that is no finite number, {at_s:.3f} s after its start")


class AudioWriter:
    """Writes a 16-bit wav file piece by piece: `with AudioWriter(path) as writer: writer.write(frame)`.

    The file appears when the block ends; after an error there is none. Samples beyond full scale are clipped.

    Raises:
        OutputError: the file cannot be written. A missing folder already shows on entering.
    """

    def __init__(
        self, path: str | os.PathLike[str], channels: int = 1, sample_rate_hz: int = SAMPLE_RATE_HZ
    ) -> None:
        if channels not in (1, 2):
            raise ValueError(f"a wav file of one or two channels can be written, not of {channels}")
        self.path = Path(path)
        self.channels = channels
        self.sample_rate_hz = sample_rate_hz
        self._stack = ExitStack()
        self._wave: wave.Wave_write | None = None

    def __enter__(self) -> AudioWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            stack.enter_context(naming(self.path))  # the length is filled in, and buffers written, on closing
            file = stack.enter_context(temporary.open("wb"))
            self._wave = stack.enter_context(wave.open(file, "wb"))
            self._wave.setparams((self.channels, 2, self.sample_rate_hz, 0, "NONE", ""))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wave = None
        self._stack.__exit__(kind, error, trace)

    def write(self, samples: Samples) -> None:
        """Appends samples, [N] for one channel or [N, 2] for two, full scale 1.0.

        Raises:
            AudioError: they have another shape, or NaN or infinity in them.
            OutputError: the disk is full.
        """
        assert self._wave is not None, "write inside the with block"
        if samples.ndim != self.channels or (self.channels == 2 and samples.shape[1] != 2):
            wanted = "[N]" if self.channels == 1 else "[N, 2]"
            raise AudioError(f"{self.path} takes samples of shape {wanted}, not {list(samples.shape)}")
        if not np.isfinite(samples).all():
            raise AudioError(f"{self.path} cannot hold NaN or infinity")
        with naming(self.path):
            self._wave.writeframesraw(_pcm16(samples).tobytes())


def write_audio(path: str | os.PathLike[str], samples: Samples, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Writes samples, [N] or [N, 2], as a 16-bit wav file. Raises the errors of `AudioWriter`."""
    with AudioWriter(path, channels=samples.ndim, sample_rate_hz=sample_rate_hz) as writer:
        writer.write(samples)


def _pcm16(samples: Samples) -> NDArray[np.int16]:
    """Full scale 1.0 to 32768, so that a 16-bit file that was read is written back bit by bit."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")
