"""Calls as files: data for the next model, in the layout that fine-tuning and evaluation read.

Of each call there is a folder, named by the time it began:

    20261130-174502-3f9a/call.wav      what the bot said on the left, what it heard on the right
    20261130-174502-3f9a/call.json     the words of both, as `moshi-agent train lm` reads them
    20261130-174502-3f9a/events.jsonl  every event but the audio, one a line
    calls.jsonl                        the list of all calls, for `train_data` or `eval_data`

Nobody is asked for consent here, and nothing is ever deleted: both are up to who runs this.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from moshi_agent import AudioChunk, Ended, Event, MoshiAgentError, SessionConfig, TextToken, UserWord, Word
from moshi_agent.audio.files import AudioWriter
from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Frame, Samples
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.engine.tap import SessionTap
from moshi_agent.outputs import naming
from moshi_agent.training.stereo.alignments import MAIN_SPEAKER, Alignment, write_sidecar
from moshi_agent_adapters.protocols.event_json import event_to_json

USER_SPEAKER = "SPEAKER_USER"
_log = logging.getLogger("moshi_agent.recordings")
_MOST_WAITING = 20_000  # frames and events of all calls that the disk has not taken yet


class Recordings:
    """Records every conversation of an engine: `engine.new_tap = recordings.begin`.

    One thread of its own writes; nobody waits for the disk. A call that cannot be written goes on, and the
    log says that its recording is lost.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        with naming(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._open: set[_Recording] = set()
        self._thread = threading.Thread(target=self._write, name="recordings", daemon=True)
        self._thread.start()

    def begin(self, config: SessionConfig) -> SessionTap:
        """Returns what listens in on a conversation. Nothing is written before something is said."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        return _Tap(self._work, _Recording(self._folder / name, config, self._open))

    def close(self) -> None:
        """Ends the recordings of calls that go on, and returns when everything is written."""
        self._work.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (job := self._work.get()) is not None:
            job()
        for recording in list(self._open):
            _guarded(recording, recording.finish)


class _Tap:
    """One conversation's; see `SessionTap`."""

    def __init__(self, work: queue.Queue[Callable[[], None] | None], recording: _Recording) -> None:
        self._work, self._recording = work, recording

    def heard(self, frame: Frame) -> None:
        self._hand_over(lambda: self._recording.hear(frame))

    def told(self, inputs_taken: int, events: Sequence[Event]) -> None:
        self._hand_over(lambda: self._recording.take(inputs_taken, events))

    def _hand_over(self, job: Callable[[], None]) -> None:
        recording = self._recording
        if recording.is_lost:
            return
        try:
            self._work.put_nowait(lambda: _guarded(recording, job))
        except queue.Full:
            recording.is_lost = True
            _log.warning("the recording %s is lost: the disk is too slow", recording.folder.name)


def _guarded(recording: _Recording, job: Callable[[], None]) -> None:
    """Does a part of the work, as long as the recording is none that is lost."""
    if recording.is_lost:
        recording.give_up()
        return
    try:
        job()
    except Exception as error:  # whatever it is, the other calls are recorded on
        recording.is_lost = True
        recording.give_up()
        _log.warning("the recording %s is lost: %s", recording.folder.name, error)


@dataclass(eq=False)
class _Recording:
    """The files of one call. Everything here is done in the writing thread."""

    folder: Path
    config: SessionConfig
    all_open: set[_Recording]  # it is among these while it has files that are not closed
    is_lost: bool = False
    _waiting: deque[Frame] = field(default_factory=deque[Frame])  # of the user, that no step has taken yet
    _user: list[Samples] = field(default_factory=list[Samples])
    _bot: list[Samples] = field(default_factory=list[Samples])
    _words: list[Alignment] = field(default_factory=list[Alignment])
    _first: int = 0  # the frame that the file begins with
    _frames: int = 0  # the one that comes next
    _samples: int = 0  # that are written
    _files: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._resampler = StreamResampler(self.config.output_sample_rate, SAMPLE_RATE_HZ)
        self._writer: AudioWriter | None = None
        self._events: TextIO | None = None

    def hear(self, frame: Frame) -> None:
        self._waiting.append(frame)

    def take(self, inputs_taken: int, events: Sequence[Event]) -> None:
        """Lays what was said beside what was heard with it."""
        chunks = [event for event in events if isinstance(event, AudioChunk)]
        taken = [self._waiting.popleft() for _ in range(min(inputs_taken, len(self._waiting)))]
        heard = taken[-len(chunks) :] if chunks else []  # more than these are silence that was left out
        heard = [_silence()] * (len(chunks) - len(heard)) + heard  # the input had stalled
        for event in events:
            match event:
                case AudioChunk():
                    self._add(event, heard.pop(0))
                case Word():
                    self._add_word(event, MAIN_SPEAKER)
                case UserWord():
                    self._add_word(event, USER_SPEAKER)
                case _:
                    pass
            if self._events is not None and not isinstance(event, AudioChunk | TextToken):
                self._events.write(event_to_json(event) + "\n")
        if any(isinstance(event, Ended) for event in events):
            self.finish()

    def finish(self) -> None:
        """Writes the rest, and lists the call."""
        if self._writer is None:
            return
        self._bot.append(self._resampler.flush())
        self._write(to_the_end=True)
        duration_s = self._samples / SAMPLE_RATE_HZ
        words = [
            replace(word, end_s=min(word.end_s, duration_s))
            for word in sorted(self._words, key=lambda word: word.start_s)
            if word.start_s < duration_s
        ]
        self._writer = self._events = None
        self.all_open.discard(self)
        self._files.close()
        write_sidecar(self.folder / "call.json", words, greets=self.config.greet)
        line = {"path": f"{self.folder.name}/call.wav", "duration": duration_s}
        listing = self.folder.parent / "calls.jsonl"
        with naming(listing), listing.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def give_up(self) -> None:
        """Leaves the recording; of its sound nothing stays."""
        self._waiting.clear()
        self._user.clear()
        self._bot.clear()
        if self._writer is not None:
            self._writer = self._events = None
            self.all_open.discard(self)
            lost = MoshiAgentError("the recording is lost")
            self._files.__exit__(MoshiAgentError, lost, None)

    def _add(self, chunk: AudioChunk, heard: Frame) -> None:
        if self._writer is None:
            self._begin()
            self._first = self._frames = chunk.frame
        missing = chunk.frame - self._frames  # left out to catch up, or never taken
        if missing > 0:
            self._user.append(np.zeros(missing * FRAME_SAMPLES, np.float32))
            self._bot.append(self._resampler.push(_silence_of(missing, chunk.sample_rate)))
        self._frames = chunk.frame + 1
        self._user.append(heard)
        self._bot.append(self._resampler.push(chunk.pcm))
        if len(self._user) >= 12:  # about a second
            self._write()

    def _add_word(self, word: Word | UserWord, speaker: str) -> None:
        """At its time in the file, which begins with the first frame that was said."""
        start_s, end_s = (max(0.0, at_s - self._first * FRAME_S) for at_s in (word.start, word.end))
        self._words.append(Alignment(word.text, start_s, end_s, speaker))

    def _begin(self) -> None:
        with naming(self.folder):
            self.folder.mkdir(mode=0o700)
        self.all_open.add(self)
        self._writer = self._files.enter_context(AudioWriter(self.folder / "call.wav", channels=2))
        self._events = self._files.enter_context((self.folder / "events.jsonl").open("w", encoding="utf-8"))

    def _write(self, to_the_end: bool = False) -> None:
        """Writes as much as there is of both sides; at the end all, the shorter side filled up."""
        assert self._writer is not None
        user, bot = np.concatenate(self._user), np.concatenate(self._bot)
        length = (max if to_the_end else min)(len(user), len(bot))
        both = np.zeros((length, 2), np.float32)
        for column, side in enumerate((bot[:length], user[:length])):
            both[: len(side), column] = side
        self._writer.write(both)
        self._samples += length
        self._user, self._bot = [user[length:]], [bot[length:]]


def _silence() -> Frame:
    return np.zeros(FRAME_SAMPLES, np.float32)


def _silence_of(frames: int, sample_rate: int) -> Samples:
    return np.zeros(round(frames * FRAME_SAMPLES * sample_rate / SAMPLE_RATE_HZ), np.float32)
