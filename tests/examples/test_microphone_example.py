"""`examples/microphone.py`: what can be told without a sound card.

The sound card is faked: its callback is called with arrays, and `sounddevice` itself is replaced where one
is missing or has no devices. So is the engine's session, which takes down what is pushed.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from moshi_agent import AudioChunk, SessionClosed

EXAMPLE = Path(__file__).parents[2] / "examples" / "microphone.py"
BLOCK = 480
TIMES = SimpleNamespace(inputBufferAdcTime=1.0, currentTime=1.01, outputBufferDacTime=1.03)


@pytest.fixture(scope="module")
def microphone() -> ModuleType:
    spec = importlib.util.spec_from_file_location("microphone_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Notes:
    """In the session's place: what was pushed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[np.ndarray] = []
        self.error = error

    def push(self, pcm: np.ndarray, sample_rate: int) -> None:
        assert sample_rate == 48_000
        if self.error is not None:
            raise self.error
        self.heard.append(pcm)


def _chunk(pcm: np.ndarray) -> AudioChunk:
    return AudioChunk(frame=0, media_s=0.0, wall_s=0.0, pcm=pcm.astype(np.float32), sample_rate=48_000)


def _run(*args: str, code: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import runpy, sys\n{code}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    start = f"import sys; sys.argv = {[str(EXAMPLE), *args]!r}\n{program}"
    return subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)


def _block(microphone: ModuleType, duplex: object, heard: np.ndarray) -> np.ndarray:
    """One call of the sound card: what it plays [480]."""
    play = np.full((BLOCK, 1), 99, np.int16)
    duplex.play(play, BLOCK, TIMES, None)
    duplex.hear(heard.reshape(-1, 1), BLOCK, TIMES, None)
    return play[:, 0]


def test_help_explains_the_choice_of_devices() -> None:
    run = _run("--help")
    assert run.returncode == 0
    assert "--list-devices" in run.stdout and "--headphones" in run.stdout


def test_a_missing_library_is_named_with_its_remedy() -> None:
    run = _run("--list-devices", code="sys.modules['sounddevice'] = None")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == ("error: the microphone needs sounddevice: pip install 'moshi-agent[microphone]'\n")


def test_a_missing_portaudio_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    run = _run(code=f"sys.path.insert(0, {str(tmp_path)!r})")
    assert run.returncode == 1
    assert run.stderr.startswith("error: PortAudio library not found; install PortAudio")
    assert run.stderr.count("\n") == 1


def test_a_missing_device_is_one_line_before_any_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(
        "class PortAudioError(Exception): pass\n"
        "def check_input_settings(device, channels, samplerate):\n"
        "    raise PortAudioError(f'Error querying device {device or -1}')\n"
    )
    code = f"sys.path.insert(0, {str(tmp_path)!r}); sys.modules['torch'] = None"
    run = _run("--input", "7", code=code)
    assert run.returncode == 1
    assert run.stderr == "error: Error querying device 7; --list-devices shows what there is\n"
    run = _run(code=code)
    assert run.stderr.startswith("error: Error querying the default device: there is none;")


def test_devices_are_numbers_or_parts_of_names(microphone: ModuleType) -> None:
    assert microphone.device("12") == 12
    assert microphone.device("USB 2") == "USB 2"


def test_without_a_canceller_headphones_are_demanded_aloud(
    microphone: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "livekit", None)
    with pytest.raises(SystemExit, match="PUT ON HEADPHONES"):
        microphone.choose_canceller(headphones=False)
    assert isinstance(microphone.choose_canceller(headphones=True), microphone.Headphones)


def test_the_canceller_is_not_loaded_for_a_wearer_of_headphones(
    microphone: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "livekit", None)
    with pytest.raises(SystemExit):
        microphone.talk(None, argparse.Namespace(headphones=False))


def test_every_sample_of_the_bot_is_played_after_the_cushion(microphone: ModuleType) -> None:
    said = np.arange(-960, 960) / 32767
    loudspeaker = microphone.Loudspeaker()
    assert not loudspeaker.take(BLOCK).any()
    loudspeaker.add(_chunk(said[:1000]))
    loudspeaker.add(_chunk(said[1000:]))
    played = np.concatenate([loudspeaker.take(BLOCK) for _ in range(12)])
    start = microphone.CUSHION
    assert not played[:start].any()
    assert played[start : start + len(said)].tolist() == list(range(-960, 960))
    assert not played[start + len(said) :].any()


def test_what_nobody_plays_is_bounded_and_the_newest_is_kept(microphone: ModuleType) -> None:
    loudspeaker = microphone.Loudspeaker()
    for second in range(1, 4):
        loudspeaker.add(_chunk(np.full(48_000, second / 10)))
    played = loudspeaker.take(48_000)
    assert np.count_nonzero(played) == microphone.LONGEST
    assert set(played[: microphone.LONGEST].tolist()) == {round(0.3 * 32767)}


def test_the_session_hears_each_block_as_it_was_and_the_card_plays_the_bot(microphone: ModuleType) -> None:
    session, loudspeaker = Notes(), microphone.Loudspeaker()
    duplex = microphone.Duplex(session, loudspeaker, microphone.Headphones())
    loudspeaker.add(_chunk(np.full(BLOCK, 0.5)))
    heard = np.random.default_rng(0).integers(-1000, 1000, (6, BLOCK)).astype(np.int16)
    wanted = heard.copy()
    played = np.concatenate([_block(microphone, duplex, block) for block in heard])
    heard[:] = 0  # the sound card uses its buffers again
    assert np.array_equal(session.heard, wanted)
    assert np.count_nonzero(played) == BLOCK
    assert not duplex.failed.is_set()


def test_the_end_of_the_conversation_ends_the_program_not_the_sound_card(microphone: ModuleType) -> None:
    session = Notes(SessionClosed("the conversation is over"))
    duplex = microphone.Duplex(session, microphone.Loudspeaker(), microphone.Headphones())
    assert not _block(microphone, duplex, np.ones(BLOCK, np.int16)).any()
    assert duplex.failed.is_set()
    assert duplex.status == "the conversation is over"


def test_the_echo_of_the_loudspeaker_is_cancelled_and_the_user_is_not(microphone: ModuleType) -> None:
    pytest.importorskip("livekit.rtc", reason="needs the extra `microphone`")
    random = np.random.default_rng(0)
    blocks, delay, seconds = 800, 1440, 8
    # Noise whose level goes up and down as that of speech; the echo comes 30 ms later and through a room.
    level = np.repeat(np.abs(np.sin(np.arange(seconds * 8))), 48_000 // 8)
    played = (3000 * level * random.standard_normal(blocks * BLOCK)).astype(np.int16)
    room = np.concatenate([np.zeros(delay), 0.4 * random.standard_normal(480) * np.exp(-np.arange(480) / 80)])
    echo = np.convolve(played, room)[: len(played)].astype(np.int16)
    user = np.where(np.arange(len(played)) > 6 * 48_000, 2000 * np.sin(np.arange(len(played)) / 20), 0)
    canceller = microphone.EchoCanceller()
    pieces: list[np.ndarray] = []
    heard = (echo + user).astype(np.int16)
    for near, far in zip(heard.reshape(-1, BLOCK), played.reshape(-1, BLOCK), strict=True):
        canceller.play(far, 0.02)
        pieces.append(canceller.clean(near, 0.01))
    cleaned = np.concatenate(pieces).astype(float)
    alone = slice(3 * 48_000, 6 * 48_000)
    assert np.std(cleaned[alone]) < 0.1 * np.std(echo[alone])
    assert np.std(cleaned[6 * 48_000 :]) > 0.3 * np.std(user[6 * 48_000 :])
