"""`moshi-agent talk` and `examples/microphone.py` with a microphone and speakers, as a user runs them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from moshi_agent.training.tiny.evaluation.matching import Matcher
from tests.adapters.server.server_process import serving
from tests.sound_card import RATE_HZ, SoundCard, heard, sound_card

EXAMPLE = Path(__file__).parents[3] / "examples" / "microphone.py"
ANSWERS = {
    "Count to five.": "One, two, three, four, five.",
    "What is your name?": "My name is Moshi, and I am a tiny talking model.",
}
LONGEST_ANSWER_S = 20.0  # a test on a busy machine may wait


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundCard]:
    if importlib.util.find_spec("livekit.rtc") is None:
        pytest.skip("needs the extra `microphone`: pip install moshi-agent[microphone]")
    try:
        importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:
        pytest.skip(f"needs the extra `microphone`, and on Linux apt install libportaudio2: {error}")
    with sound_card(tmp_path_factory.mktemp("card")) as card:
        yield card


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Matcher:
    """Of the answers, in their order, as the model says them when there is no sound card."""
    answer = tmp_path_factory.mktemp("answers") / "answer.wav"
    sounds: list[NDArray[np.float32]] = []
    for question in ANSWERS:
        command = ["run", "--greedy", "--question", question, "--out", str(answer)]
        subprocess.run(
            [sys.executable, "-m", "moshi_agent", *command],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        sounds.append(loud_part(read_audio(answer)))
    return Matcher(sounds)


def loud_part(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    loud = np.flatnonzero(np.abs(audio) > 0.01)
    return audio[loud[0] : loud[-1] + 1] if len(loud) else audio[:0]


class Program:
    """One that talks, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], printed: Path) -> None:
        self.process, self._printed = process, printed

    @property
    def text(self) -> str:
        return self._printed.read_text()

    def await_text(self, text: str, timeout_s: float = 60.0, times: int = 1) -> None:
        give_up_at = time.monotonic() + timeout_s
        while self.text.count(text) < times:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < give_up_at, self.text
            time.sleep(0.1)

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextmanager
def running(card: SoundCard, folder: Path, *command: str) -> Iterator[Program]:
    environment = card.environment | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    printed = folder / "printed"
    with (
        printed.open("w") as file,
        subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield Program(process, printed)
        finally:
            process.kill()


def ask(card: SoundCard, program: Program, question: str, folder: Path) -> NDArray[np.float32]:
    """Says it, awaits the answer's text and sound; what came out of the loudspeaker."""
    with card.recorded("loudspeaker", folder / "loudspeaker"):
        card.say(find_question(question, sample_questions()).path)
        program.await_text(ANSWERS[question].rstrip("."), LONGEST_ANSWER_S)
        time.sleep(1.5)  # the text is some words ahead
    return loud_part(heard(folder / "loudspeaker"))


@contextmanager
def example(card: SoundCard, folder: Path, *options: str) -> Iterator[Program]:
    with running(card, folder, str(EXAMPLE), *options) as program:
        program.await_text("Talk;")
        yield program


@pytest.mark.real_time
@pytest.mark.slow
def test_who_speaks_into_the_microphone_hears_the_answer(
    card: SoundCard, matcher: Matcher, tmp_path: Path
) -> None:
    with example(card, tmp_path) as program:
        for index, question in enumerate(ANSWERS):
            assert matcher.nearest(ask(card, program, question, tmp_path)) == index
        assert program.interrupt() == 0
        assert "Traceback" not in program.text


@pytest.mark.real_time
@pytest.mark.slow
def test_the_bot_goes_on_when_the_loudspeaker_is_heard_by_the_microphone(
    card: SoundCard, matcher: Matcher, tmp_path: Path
) -> None:
    """The echo is 9 dB down. Uncancelled, it makes the bot break off and say something else."""
    with example(card, tmp_path) as program, card.leaking(latency_ms=30, percent=70):
        for index, question in enumerate(ANSWERS):
            assert matcher.nearest(ask(card, program, question, tmp_path)) == index


@pytest.mark.real_time
@pytest.mark.slow
def test_what_interrupts_the_loudspeaker_does_not_delay_the_microphone(
    card: SoundCard, tmp_path: Path
) -> None:
    """The program is held up twelve times for a quarter of a second, of which no delay remains."""
    question = next(iter(ANSWERS))
    with example(card, tmp_path) as program:
        for _ in range(12):
            time.sleep(0.5)
            os.kill(program.process.pid, signal.SIGSTOP)
            time.sleep(0.25)
            os.kill(program.process.pid, signal.SIGCONT)
        time.sleep(1)
        asked = find_question(question, sample_questions()).path
        with card.recorded("loudspeaker", tmp_path / "loudspeaker"):
            card.say(asked)
            program.await_text("One, two", LONGEST_ANSWER_S)
            time.sleep(1)
    answer_at_s = np.flatnonzero(np.abs(heard(tmp_path / "loudspeaker")) > 0.01)[0] / RATE_HZ
    assert answer_at_s - sf.info(asked).duration < 1.2


@pytest.mark.real_time
@pytest.mark.slow
def test_talk_shows_and_plays_the_answer_and_takes_the_conversation_up_again(
    card: SoundCard, matcher: Matcher, tmp_path: Path
) -> None:
    first, second = ANSWERS
    with serving() as server:
        with running(card, tmp_path, "-m", "moshi_agent", "talk", "--url", server.url) as program:
            program.await_text("Ctrl-C ends the conversation")
            assert matcher.nearest(ask(card, program, first, tmp_path)) == 0
            server.process.kill()
            program.await_text("trying again")
            with serving("--port", str(server.port)):
                program.await_text("connected", times=2)
                assert matcher.nearest(ask(card, program, second, tmp_path)) == 1
                assert program.interrupt() == 0
        assert "Traceback" not in program.text


def test_without_a_device_talk_says_so(tmp_path: Path) -> None:
    """Neither does ALSA have a card, nor does PulseAudio answer."""
    (tmp_path / "sounddevice.py").write_text(
        "class PortAudioError(Exception): pass\n"
        "def OutputStream(**options): raise PortAudioError('Error querying device -1')\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "moshi_agent", "talk", "--headphones", "--url", "localhost:1"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        "error: no microphone and speakers can be opened: Error querying the default device: there is none; "
        "accepted: --in\n"
    )


def test_without_portaudio_talk_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "moshi_agent", "talk", "--headphones", "--url", "localhost:1"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert "PortAudio library not found" in run.stderr and "apt install libportaudio2" in run.stderr
