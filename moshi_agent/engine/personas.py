"""Voices and roles as they are asked for, and the prompts that they come to."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import Samples
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.voices import FilePlace, Place, VoiceFile, Voices, find_voices
from moshi_agent.engine.commands import Key, Open
from moshi_agent.engine.config import EngineConfig, SessionConfig
from moshi_agent.engine.event_queue import Outlet
from moshi_agent.engine.prompt.persona import compile_persona
from moshi_agent.engine.prompt.prompt import Prompt, Recording
from moshi_agent.errors import ConfigError, EngineFull

_MOST_KEPT = 16  # a prompt has about a megabyte

Request = Callable[[Open, Outlet | None], Future[Any]]


class Personas:
    """Compiles the prompts of voices and roles, and keeps the latest. Any thread may call its methods.

    Args:
        checkpoint: the voices that came with it may be asked for by name.
        voices: a folder of others; one of the same name goes before the checkpoint's.
        wanted: whether roles and voices are taken; None where the model is a PersonaPlex.

    Raises:
        ConfigError: no such folder, or a model that cannot take what is wanted.
    """

    def __init__(
        self, checkpoint: Checkpoint, voices: str | Path | None = None, wanted: bool | None = None
    ) -> None:
        self.are_taken = checkpoint.takes_personas if wanted is None else wanted
        lm, tokenizer = checkpoint.lm, checkpoint.tokenizer
        if self.are_taken and not (lm and lm.dep_q and lm.config.num_user_codebooks and tokenizer):
            raise ConfigError(f"{checkpoint.name} is no model of a conversation: it takes no role or voice")
        if voices is not None and not self.are_taken:
            raise ConfigError(
                f"voices={str(voices)!r}, but {checkpoint.name} was not trained to take a voice; accepted: a "
                "PersonaPlex, or personas=True for a model that was trained like one"
            )
        own = checkpoint.voices if self.are_taken else Voices()
        self.voices = Voices({**own, **find_voices(Path(voices))}) if voices is not None else own
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, Prompt] = OrderedDict()

    def kept(self, config: SessionConfig) -> Prompt | None:
        """Returns the prompt of what a conversation asks for, if it is at hand.

        Raises:
            ConfigError: the model takes none, or there is no voice of that name.
        """
        self._check(config)
        key = _key(config)
        with suppress(KeyError):
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def prompt(self, config: SessionConfig) -> Prompt:
        """Returns the prompt of what a conversation asks for. May take its time.

        Raises:
            ConfigError: as `kept`.
            InputError, AudioError: a voice or a role that is no good; see `compile_persona`.
        """
        self._check(config)
        key = _key(config)
        with self._lock:
            prompt = self._kept.pop(key, None) or compile_persona(
                self._checkpoint, self._voice(config.voice), config.role
            )
            self._kept[key] = prompt
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return prompt

    def _check(self, config: SessionConfig) -> None:
        if not self.are_taken:
            raise ConfigError(f"{self._checkpoint.name} was not trained to take a role or a voice")
        if isinstance(config.voice, str) and config.voice not in self.voices:
            known = ", ".join(self.voices) or "none, for this model came without"
            raise ConfigError(f"no voice {config.voice!r}; there are: {known}")

    def _voice(self, voice: object) -> Samples | VoiceFile | None:
        if isinstance(voice, Recording):
            return voice.samples
        if not isinstance(voice, str | Path):
            return None
        place: Place = self.voices[voice] if isinstance(voice, str) else FilePlace(voice)
        return place.read() if place.recording is None else read_audio(place.recording)


def _key(config: SessionConfig) -> object:
    """What tells two personas apart. A file may have changed since."""
    voice = config.voice
    if not isinstance(voice, Path):
        return type(voice), voice, config.role
    with suppress(OSError):
        stat = voice.stat()
        return voice, stat.st_mtime_ns, stat.st_size, config.role
    return voice, config.role


@dataclass
class _Preparation:
    is_withdrawn: bool = False


class PersonaOpenings:
    """Opens conversations once their persona's prompt is there; it is compiled in a thread of its own.

    Args:
        personas: compiles the prompts.
        config: of the engine.
        request: opens a conversation that has its prompt.
        close: ends one that nobody waits for any more.
    """

    def __init__(
        self, personas: Personas, config: EngineConfig, request: Request, close: Callable[[Key], None]
    ) -> None:
        self._personas = personas
        self._threads = config.threads
        # At once, half of them withdrawn: more would not be let in.
        self._most = 2 * (config.capacity + config.waiting)
        self._request = request
        self._close = close
        # Without a lock: a session that the garbage collector finds may be closed from anywhere.
        self._preparing: dict[Key, _Preparation] = {}

    def open(self, command: Open, outlet: Outlet | None) -> Future[Any]:
        """Opens the conversation, at once if its prompt is at hand.

        Fails as `Personas.prompt`, and with EngineFull while more wait than could be let in.
        """
        reply: Future[Any] = Future()
        try:
            prompt = self._personas.kept(command.config)
        except ConfigError as error:
            reply.set_exception(error)
            return reply
        if prompt is not None:
            return self._request(_with(command, prompt), outlet)
        if len(self._preparing) >= self._most:
            reply.set_exception(EngineFull(f"{self._most} conversations wait for their prompts already"))
            return reply
        self._preparing[command.key] = _Preparation()
        threading.Thread(
            target=self._prepare, args=(command, outlet, reply), name="moshi-persona", daemon=True
        ).start()
        return reply

    def withdraw(self, key: Key) -> None:
        """Notes that nobody waits for the conversation any more, before the engine is told to close it."""
        preparation = self._preparing.get(key)
        if preparation is not None:
            preparation.is_withdrawn = True

    def _prepare(self, command: Open, outlet: Outlet | None, reply: Future[Any]) -> None:
        preparation = self._preparing[command.key]
        try:
            torch.set_num_threads(self._threads)
            opened = self._request(_with(command, self._personas.prompt(command.config)), outlet)
            opened.add_done_callback(lambda opened: _pass_on(opened, reply))
        except Exception as error:  # whatever it is, somebody waits for the answer
            with suppress(InvalidStateError):
                reply.set_exception(error)
        if preparation.is_withdrawn:  # and so closed before it was opened
            self._close(command.key)
        del self._preparing[command.key]


def _with(command: Open, prompt: Prompt) -> Open:
    return replace(command, config=replace(command.config, voice=None, role=None, prompt=prompt))


def _pass_on(done: Future[Any], reply: Future[Any]) -> None:
    with suppress(InvalidStateError):  # who has asked may wait no longer
        error = done.exception()
        if error is None:
            reply.set_result(done.result())
        else:
            reply.set_exception(error)
