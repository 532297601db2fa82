"""Talk to the model: microphone in, loudspeaker out.

    pip install "moshi-agent[microphone]"
    python microphone.py --list-devices
    python microphone.py --input 3 --output "USB"

A bot that hears itself takes its own voice for the user and interrupts itself. The loudspeaker's echo is
taken out of the microphone by WebRTC's canceller, from the `livekit` package. Without that package you need
headphones, and have to say with `--headphones` that you wear them.
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

import moshi_agent

RATE_HZ = 48_000  # which every sound card has
BLOCK = 480  # samples, 10 ms: what the canceller takes
CUSHION = BLOCK * 4  # silence before the first answer and after a gap, against late ones
LONGEST = RATE_HZ // 2  # samples that may wait to be played
PLAY_LATENCY_S = 0.06  # of the loudspeaker: with less, a machine busy with the model leaves gaps in words

Pcm = NDArray[np.int16]  # [N] mono

HEADPHONES = """
  ****  PUT ON HEADPHONES  ****
  Nothing here can take the loudspeaker's echo out of the microphone: the bot would hear itself and stop.
  Wear headphones and add --headphones, or: pip install livekit
"""


class Listener(Protocol):
    """What hears the user: a session of the engine."""

    def push(self, pcm: Pcm, sample_rate: int) -> None: ...


class Loudspeaker:
    """What the bot has said and nobody has heard yet. Filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._waiting: Pcm = np.zeros(0, np.int16)
        self._lock = threading.Lock()

    def add(self, chunk: moshi_agent.AudioChunk) -> None:
        """Takes what the bot says; of more than half a second the oldest is lost."""
        pcm = np.frombuffer(chunk.to_int16(), "<i2")
        with self._lock:
            before = self._waiting if len(self._waiting) else np.zeros(CUSHION, np.int16)
            self._waiting = np.concatenate([before, pcm])[-LONGEST:]

    def take(self, samples: int) -> Pcm:
        """The next samples; silence where there are none."""
        with self._lock:
            pcm, self._waiting = self._waiting[:samples], self._waiting[samples:]
        return np.concatenate([pcm, np.zeros(samples - len(pcm), np.int16)])


class Headphones:
    """No echo, nothing to cancel."""

    def play(self, played: Pcm, delay_s: float) -> None:
        pass

    def clean(self, heard: Pcm, age_s: float) -> Pcm:
        return heard.copy()


class EchoCanceller:
    """WebRTC's. Raises ImportError without the `livekit` package."""

    def __init__(self) -> None:
        from livekit import rtc

        self._frame = rtc.AudioFrame
        self._apm = rtc.AudioProcessingModule(echo_cancellation=True, high_pass_filter=True)
        self._play_delay_s = 0.0
        self._lock = threading.Lock()

    def play(self, played: Pcm, delay_s: float) -> None:
        """Takes what will be heard [480] in `delay_s`."""
        with self._lock:
            self._play_delay_s = delay_s
            self._apm.process_reverse_stream(self._audio(played))

    def clean(self, heard: Pcm, age_s: float) -> Pcm:
        """What the microphone heard [480] `age_s` ago, without its part of what was played."""
        near = self._audio(heard)
        with self._lock:
            delay_s = min(max(self._play_delay_s + age_s, 0.0), 0.5)
            self._apm.set_stream_delay_ms(round(1000 * delay_s))
            self._apm.process_stream(near)
        return np.array(near.data, np.int16)

    def _audio(self, pcm: Pcm) -> Any:
        return self._frame(bytearray(pcm.tobytes()), RATE_HZ, 1, len(pcm))


class Duplex:
    """Both directions of the sound card, 10 ms at a time. Each is called by a thread of its own."""

    def __init__(
        self, session: Listener, loudspeaker: Loudspeaker, canceller: EchoCanceller | Headphones
    ) -> None:
        self.failed = threading.Event()
        self.status = ""
        self._session, self._loudspeaker, self._canceller = session, loudspeaker, canceller

    def hear(self, heard: Pcm, samples: int, times: Any, status: object) -> None:
        """Takes `heard` [N, 1]."""
        age_s = times.currentTime - times.inputBufferAdcTime
        try:
            self._session.push(self._canceller.clean(heard[:, 0], age_s), RATE_HZ)
        except moshi_agent.MoshiAgentError as error:
            self.status = str(error)
            self.failed.set()

    def play(self, play: Pcm, samples: int, times: Any, status: object) -> None:
        """Fills `play` [N, 1]."""
        play[:, 0] = self._loudspeaker.take(samples)
        self._canceller.play(play[:, 0], times.outputBufferDacTime - times.currentTime)


def on_event(event: moshi_agent.Event) -> None:
    """Prints the bot's words, one turn a line."""
    if isinstance(event, moshi_agent.Word):
        print(event.text, end=" ", flush=True)
    elif isinstance(event, moshi_agent.BotStopped):
        print(flush=True)


def fail(message: str) -> NoReturn:
    sys.exit(f"error: {message}")


def load_sounddevice() -> Any:
    """The library of the sound card; ends the program, and says why, where there is none."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        fail("the microphone needs sounddevice: pip install 'moshi-agent[microphone]'")
    except OSError as error:
        fail(f"{error}; install PortAudio, on Debian and Ubuntu: apt install libportaudio2")
    return sounddevice


def choose_canceller(headphones: bool) -> EchoCanceller | Headphones:
    """Ends the program, and demands headphones, where there is no other remedy."""
    if headphones:
        return Headphones()
    try:
        return EchoCanceller()
    except ImportError:
        sys.exit(HEADPHONES)


def device(text: str) -> int | str:
    """A sound device's number or a part of its name."""
    return int(text) if text.isdecimal() else text


def talk(sounddevice: Any, options: argparse.Namespace) -> None:
    """A conversation, until Ctrl-C."""
    loudspeaker, canceller = Loudspeaker(), choose_canceller(options.headphones)
    with moshi_agent.Engine.load(options.model, capacity=1, process=True) as engine:
        config = moshi_agent.SessionConfig(output_sample_rate=RATE_HZ, greet=options.greet)
        session = engine.open_session(config, on_audio=loudspeaker.add, on_event=on_event)
        duplex = Duplex(session, loudspeaker, canceller)
        both = {"samplerate": RATE_HZ, "blocksize": BLOCK, "dtype": "int16", "channels": 1}
        speaking = sounddevice.OutputStream(
            device=options.output, latency=PLAY_LATENCY_S, callback=duplex.play, **both
        )
        hearing = sounddevice.InputStream(device=options.input, latency="low", callback=duplex.hear, **both)
        # Not one stream for both: there, whatever interrupts what is played delays what is heard for good.
        with speaking, hearing:
            print("Talk; Ctrl-C ends it.")
            duplex.failed.wait()
        fail(duplex.status)


def main() -> None:
    parser = argparse.ArgumentParser(description="Talk to the model through the microphone.")
    parser.add_argument("--model", default="tiny", help="tiny, a Hugging Face repository, or a folder")
    parser.add_argument("--list-devices", action="store_true", help="show the sound devices and exit")
    parser.add_argument("--input", type=device, metavar="N|NAME", help="the microphone")
    parser.add_argument("--output", type=device, metavar="N|NAME", help="the loudspeaker")
    parser.add_argument("--headphones", action="store_true", help="I wear headphones: cancel no echo")
    parser.add_argument("--greet", action="store_true", help="the bot speaks first, if it was trained to")
    options = parser.parse_args()
    sounddevice = load_sounddevice()
    if options.list_devices:
        print(sounddevice.query_devices() or "There are no sound devices.")
        return
    try:
        sounddevice.check_input_settings(options.input, channels=1, samplerate=RATE_HZ)
        sounddevice.check_output_settings(options.output, channels=1, samplerate=RATE_HZ)
        talk(sounddevice, options)
    except KeyboardInterrupt:
        print()
    except (sounddevice.PortAudioError, ValueError, moshi_agent.MoshiAgentError) as error:
        reason = str(error).replace("device -1", "the default device: there is none")
        fail(f"{reason}; --list-devices shows what there is")


if __name__ == "__main__":
    main()
