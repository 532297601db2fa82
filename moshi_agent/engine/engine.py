"""The engine: one device, one checkpoint, many conversations."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, Unpack

from moshi_agent.audio.framing import Samples
from moshi_agent.engine.callbacks import Callbacks
from moshi_agent.engine.capacity import Capacity
from moshi_agent.engine.commands import Drain, RestartPercentiles
from moshi_agent.engine.config import EngineConfig, EngineOptions, SessionConfig
from moshi_agent.engine.local import LocalBackend
from moshi_agent.engine.metrics.metrics import EngineMetrics
from moshi_agent.engine.model_facts import ModelFacts
from moshi_agent.engine.process.process import ProcessBackend
from moshi_agent.engine.prompt.prompt import Prompt, PromptSource
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent.engine.session import Session
from moshi_agent.engine.shared import Shared
from moshi_agent.engine.tap import NewTap
from moshi_agent.events import AudioChunk, Event, TextToken


class Engine:
    """Serves conversations with a checkpoint. `load` gives the one that this process shares.

    Loading happens in `load`; `start` measures the step and begins to serve. Use it as a context manager,
    sync or async, or call `start` and `close`.

    Attributes:
        new_tap: makes what listens in on each conversation to come, such as `Recordings.begin`.
    """

    # Many adapters in a process share one engine, by what it was loaded with; a fork has none of them.
    _shared: ClassVar[Shared[tuple[int, EngineConfig], Engine]] = Shared()

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self._backend = (ProcessBackend if self.config.process else LocalBackend)(self.config)
        self._keys = itertools.count(1)
        self._lock = threading.Lock()
        self._is_closed = False
        self.new_tap: NewTap | None = None

    @classmethod
    def load(
        cls, source: str | Path = "tiny", *, shared: bool = True, **options: Unpack[EngineOptions]
    ) -> Engine:
        """Returns this process's engine for a checkpoint and options, and loads it where it is not yet.

        Threads that ask for different engines load them at the same time; who asks for one that is being
        loaded waits for it.

        Args:
            source: `tiny`, a folder, or `owner/name` of a repository, as for `load_checkpoint`.
            shared: whoever asks for the same gets the same engine, which closes when all have closed it.
            options: the other fields of `EngineConfig`.

        Raises:
            ConfigError, CheckpointError: as `load_checkpoint`, or for an option's value.
            TypeError: an option that does not exist.
        """
        config = EngineConfig(source=str(source), **options)
        return cls._shared.get((os.getpid(), config), lambda: cls(config)) if shared else cls(config)

    def start(self) -> Self:
        """Begins to serve; returns when it does. May be called again."""
        with self._lock:
            self._backend.start()
        return self

    async def start_async(self) -> Self:
        """Begins to serve as `start` does, off the event loop."""
        return await asyncio.to_thread(self.start)

    def close(self) -> None:
        """Ends every conversation and frees the device, once all who share the engine have closed it."""
        if not self._shared.release((os.getpid(), self.config), self):
            return
        with self._lock:
            self._backend.stop()
            self._is_closed = True

    async def aclose(self) -> None:
        """Closes as `close` does, off the event loop."""
        await asyncio.to_thread(self.close)

    def drain(self, seconds: float) -> None:
        """Refuses new conversations; those that run go on to their end, for so many seconds at most."""
        self._backend.send(Drain(seconds))

    def session(
        self,
        config: SessionConfig | None = None,
        *,
        resume: bytes | None = None,
        on_reference: OnReference | None = None,
    ) -> Session:
        """Makes a conversation that begins with `async with` or `with`.

        Args:
            config: of the conversation. Its `voice` is a name among `engine.model.voices`, a `Path` to a
                recording or a voice file on the engine's machine, or audio, [N] float32 at 24 kHz; its `role`
                is text. Both are for models that take them; the second conversation with the same voice and
                role begins at once.
            resume: goes on where `Session.snapshot` was taken.
            on_reference: an async function that looks up what is asked for (`SessionConfig.asking`) and
                returns it as text, or None for nothing. It is cancelled when that is not wanted any more.
        """
        return self._new_session(config, resume, None, on_reference)

    def open_session(
        self,
        config: SessionConfig | None = None,
        *,
        on_audio: Callable[[AudioChunk], object] | None = None,
        on_text: Callable[[TextToken], object] | None = None,
        on_event: Callable[[Event], object] | None = None,
        on_reference: OnReference | None = None,
        resume: bytes | None = None,
    ) -> Session:
        """Begins a conversation whose callbacks are called in a thread of its own.

        `on_reference` is as for `session`, and runs in another one.

        Raises:
            EngineFull, EngineUnhealthy, InputError: as `Session.open`.
        """
        callbacks = Callbacks(on_audio=on_audio, on_text=on_text, on_event=on_event)
        return self._new_session(config, resume, callbacks, on_reference).open()

    def _new_session(
        self,
        config: SessionConfig | None,
        resume: bytes | None,
        callbacks: Callbacks | None,
        on_reference: OnReference | None,
    ) -> Session:
        config = config or SessionConfig()
        tap = self.new_tap and self.new_tap(config)
        return Session(next(self._keys), config, self._backend, resume, callbacks, on_reference, tap)

    def prompt(self, *, text: str | None = None, audio: Samples | None = None) -> Prompt:
        """Makes what a conversation is to begin with: words that the bot has written, sounds it has made.

        Args:
            text: one piece a frame, from the first frame on.
            audio: [N] float32 at 24 kHz.
        """
        return self._backend.prompt(PromptSource(text, audio))

    def capacity(self) -> Capacity:
        """Returns how many conversations fit, as measured on this device."""
        return self._backend.capacity()

    async def capacity_async(self) -> Capacity:
        """Says as `capacity`, and waits for the engine's process without holding up the event loop.

        Raises:
            EngineUnhealthy: the engine's process is not there, or does not answer.
        """
        return await self._backend.capacity_async()

    @property
    def model(self) -> ModelFacts:
        """Returns what the checkpoint is, and the sampling that it advises."""
        return self._backend.model

    def metrics(self) -> EngineMetrics:
        """Returns the figures of now."""
        return self._backend.metrics.snapshot()

    async def metrics_async(self) -> EngineMetrics:
        """Gives the figures of now, and waits for the engine's process without holding up the event loop."""
        if isinstance(self._backend, ProcessBackend):
            return await self._backend.metrics.snapshot_async()
        return self._backend.metrics.snapshot()

    def restart_percentiles(self) -> None:
        """Lets the percentiles of the metrics cover what comes from now on; counts and buckets stay."""
        self._backend.send(RestartPercentiles())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await self.start_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
