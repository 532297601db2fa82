"""Where the user's sound comes from and the bot's goes to: microphone and speakers, or files."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moshi_agent import AudioError
from moshi_agent.audio.files import AudioWriter, read_audio
from moshi_agent.audio.framing import FRAME_S, SAMPLE_RATE_HZ, Samples, frames_of
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent_adapters.talk.echo import BLOCK, RATE_HZ, Canceller
from moshi_agent_adapters.talk.player import Player

_PLAY_LATENCY_S = 0.06  # with less, a busy machine leaves gaps in words
_LONGEST_QUEUE = 500  # blocks of the microphone: 5 s
Microphone = asyncio.Queue[Samples | None]  # samples at 24 kHz; None ends it
OnSound = Callable[[Samples, Samples], object]  # the user's and the bot's, of the same 10 or 80 ms


@asynccontextmanager
async def devices(player: Player, on_sound: OnSound, canceller: Canceller) -> AsyncGenerator[Microphone]:
    """The default microphone and speakers. Gives a queue of samples at 24 kHz.

    Raises:
        AudioError: there is no sounddevice package, or no such device.
    """
    sounddevice = _sounddevice()
    card = _SoundCard(player, on_sound, canceller)
    both = {"samplerate": RATE_HZ, "blocksize": BLOCK, "channels": 1, "dtype": "int16"}
    try:
        # Not one stream for both: there, whatever interrupts what is played delays what is heard for good.
        with (
            sounddevice.OutputStream(latency=_PLAY_LATENCY_S, callback=card.play, **both),
            sounddevice.InputStream(latency="low", callback=card.hear, **both),
        ):
            yield card.microphone
    except sounddevice.PortAudioError as error:
        reason = str(error).replace("device -1", "the default device: there is none")
        raise AudioError(f"no microphone and speakers can be opened: {reason}; accepted: --in") from error


class _SoundCard:
    """Both directions, 10 ms at a time. Each is called by a thread of its own."""

    def __init__(self, player: Player, on_sound: OnSound, canceller: Canceller) -> None:
        self.microphone: Microphone = asyncio.Queue(maxsize=_LONGEST_QUEUE)
        self._player, self._on_sound, self._canceller = player, on_sound, canceller
        self._loop = asyncio.get_running_loop()
        self._resampler = StreamResampler(RATE_HZ, SAMPLE_RATE_HZ)
        self._bot: Samples = np.zeros(BLOCK, np.float32)  # what was last played

    def hear(self, heard: Any, count: int, times: Any, status: object) -> None:
        """Takes `heard` [480, 1]."""
        cleaned = self._canceller.clean(heard[:, 0], times.currentTime - times.inputBufferAdcTime)
        user = cleaned.astype(np.float32) / np.float32(32768)
        self._loop.call_soon_threadsafe(_put, self.microphone, self._resampler.push(user))
        self._on_sound(user, self._bot)

    def play(self, play: Any, count: int, times: Any, status: object) -> None:
        """Fills `play` [480, 1]."""
        self._bot = self._player.pull(count)
        play[:, 0] = (self._bot * 32767).astype(np.int16)
        self._canceller.play(play[:, 0], times.outputBufferDacTime - times.currentTime)


def _sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise AudioError(
            f"no microphone without sounddevice ({error}); accepted: pip install 'moshi-agent[talk]', or --in"
        ) from error
    except OSError as error:  # its wheels for Linux come without the library
        raise AudioError(
            f"no microphone: {error}; accepted: PortAudio installed, on Debian and Ubuntu by "
            "apt install libportaudio2, or --in"
        ) from error


def _put(microphone: Microphone, samples: Samples) -> None:
    if microphone.full():
        microphone.get_nowait()
    microphone.put_nowait(samples)


@asynccontextmanager
async def files(
    source: Path, target: Path | None, tail_s: float, player: Player, on_sound: OnSound
) -> AsyncGenerator[Microphone]:
    """A file in place of the microphone, at the speed of speech, and one in place of the speakers.

    The microphone ends `tail_s` seconds after the file.

    Raises:
        AudioError: the file is missing, or is no audio.
        OutputError: the other one cannot be written.
    """
    frames = list(frames_of(read_audio(source), tail_s))
    microphone: Microphone = asyncio.Queue()
    with ExitStack() as stack:
        writers = [] if target is None else [AudioWriter(target, sample_rate_hz=player.sample_rate_hz)]
        for writer in writers:
            stack.enter_context(writer)

        def sound(user: Samples, bot: Samples) -> None:
            on_sound(user, bot)
            for writer in writers:
                writer.write(bot)

        task = asyncio.create_task(_play(frames, microphone, player, sound))
        try:
            yield microphone
        finally:
            task.cancel()


async def _play(frames: list[Samples], microphone: Microphone, player: Player, on_sound: OnSound) -> None:
    start = time.monotonic()
    for number, frame in enumerate(frames, 1):
        await asyncio.sleep(max(0.0, start + number * FRAME_S - time.monotonic()))
        microphone.put_nowait(frame)
        on_sound(frame, player.pull(round(player.sample_rate_hz * FRAME_S)))
    microphone.put_nowait(None)
