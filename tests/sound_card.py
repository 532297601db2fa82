"""A sound card without hardware: a PulseAudio of one's own, which PortAudio reaches through ALSA.

What is played into the sink `microphone` is somebody speaking; what the monitor of the sink `loudspeaker`
gives is what is to be heard in the room.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

RATE_HZ = 24_000  # of recordings: what the references have
PROGRAMS = ("pulseaudio", "pactl", "paplay", "parec")
ALSA = """
pcm_type.pulse { lib "libasound_module_pcm_pulse.so" }
ctl_type.pulse { lib "libasound_module_ctl_pulse.so" }
pcm.!default { type pulse }
ctl.!default { type pulse }
"""
# Without `norewinds` a null sink takes two seconds at once, of silence where nothing is there yet.
PULSE = """
load-module module-native-protocol-unix
load-module module-null-sink sink_name=loudspeaker rate=48000 channels=1 norewinds=1
load-module module-null-sink sink_name=microphone rate=48000 channels=1 norewinds=1
set-default-sink loudspeaker
set-default-source microphone.monitor
"""


@dataclass(frozen=True)
class SoundCard:
    """One that is there as long as the context of `sound_card`."""

    environment: dict[str, str]  # for programs that are to use it

    def run(self, *command: str) -> str:
        """Runs a program of PulseAudio to its end."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def say(self, recording: Path) -> None:
        """Somebody speaks into the microphone. Returns when it has been said."""
        self.run("paplay", "--device=microphone", str(recording))

    @contextmanager
    def leaking(self, latency_ms: int, percent: int) -> Iterator[None]:
        """The microphone hears the loudspeaker as well, later and more quietly."""
        loopback = self.run(
            "pactl",
            "load-module",
            "module-loopback",
            "source=loudspeaker.monitor",
            "sink=microphone",
            f"latency_msec={latency_ms}",
        ).strip()
        for line in self.run("pactl", "list", "short", "sink-inputs").splitlines():
            if "module-loopback" in line:
                self.run("pactl", "set-sink-input-volume", line.split()[0], f"{percent}%")
        try:
            yield
        finally:
            self.run("pactl", "unload-module", loopback)

    @contextmanager
    def recorded(self, sink: str, into: Path) -> Iterator[None]:
        """Writes down what a sink is given, as 16-bit samples at `RATE_HZ`; see `heard`."""
        options = f"--device={sink}.monitor --rate={RATE_HZ} --channels=1 --format=s16le --latency-msec=20"
        with into.open("wb") as file:
            recorder = subprocess.Popen(["parec", *options.split()], env=self.environment, stdout=file)
            try:
                yield
            finally:
                recorder.terminate()
                recorder.wait(10)


def heard(recording: Path) -> NDArray[np.float32]:
    """What `SoundCard.recorded` has written."""
    return np.frombuffer(recording.read_bytes(), "<i2").astype(np.float32) / np.float32(32768)


@contextmanager
def sound_card(folder: Path) -> Iterator[SoundCard]:
    """Starts one with its files in an empty folder; skips the test where the programs are missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt install pulseaudio pulseaudio-utils libasound2-plugins")
    (folder / "asound.conf").write_text(ALSA)
    (folder / "default.pa").write_text(PULSE)
    environment = os.environ | {
        "XDG_RUNTIME_DIR": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "PULSE_RUNTIME_PATH": str(folder),
        "PULSE_SERVER": f"unix:{folder}/native",
        "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
    }
    folder.chmod(0o700)
    command = ["pulseaudio", "-n", f"--file={folder}/default.pa", "--daemonize=no", "--exit-idle-time=-1"]
    with (
        (folder / "pulseaudio.log").open("w") as log,
        subprocess.Popen(command, env=environment, stderr=log) as server,
    ):
        try:
            _await(folder / "native", server)
            yield SoundCard(environment)
        finally:
            server.terminate()


def _await(socket: Path, server: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 10
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > give_up_at:
            pytest.skip(f"PulseAudio does not start here: {(socket.parent / 'pulseaudio.log').read_text()}")
        time.sleep(0.05)
