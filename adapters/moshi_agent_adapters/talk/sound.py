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

_LONGEST_QUEUE = 500  # blocks of the microphone: 5 s
Microphone = asyncio.Queue[Samples | None]  # samples at 24 kHz; None ends it
OnSound = Callable[[Samples, Samples], object]  # the user's and the bot's, of the same 10 or 80 ms


@asynccontextmanager
async def devices(player: Player, on_sound: OnSound, canceller: Canceller) -> AsyncGenerator[Microphone]:
    """The default microphone and speakers, as one stream. Gives a queue of samples at 24 kHz.

    Raises:
        AudioError: there is no sounddevice package, or no such device.
    """
    sounddevice = _sounddevice()
    microphone: Microphone = asyncio.Queue(maxsize=_LONGEST_QUEUE)
    loop, resampler = asyncio.get_running_loop(), StreamResampler(RATE_HZ, SAMPLE_RATE_HZ)

    def both(heard: Any, play: Any, count: int, times: Any, status: object) -> None:
        """Called by the sound card's thread with `heard` [480, 1]; fills `play` [480, 1]."""
        bot = player.pull(count)
        play[:, 0] = (bot * 32767).astype(np.int16)
        delay_s = times.outputBufferDacTime - times.inputBufferAdcTime
        user = canceller.clean(heard[:, 0], play[:, 0], delay_s).astype(np.float32) / np.float32(32768)
        loop.call_soon_threadsafe(_put, microphone, resampler.push(user))
        on_sound(user, bot)

    try:
        with sounddevice.Stream(RATE_HZ, BLOCK, channels=1, dtype="int16", latency="low", callback=both):
            yield microphone
    except sounddevice.PortAudioError as error:
        raise AudioError(f"no microphone and speakers can be opened: {error}; accepted: --in") from error


def _sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: the PortAudio library is missing
        raise AudioError(
            f"no microphone without sounddevice ({error}); accepted: pip install 'moshi-agent[talk]', or --in"
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
