"""The engine in this process: a checkpoint, its rows, and the thread that owns them."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from moshi_agent.checkpoint import Checkpoint, load_checkpoint, load_reference_encoder
from moshi_agent.engine.birthplace import Birthplace
from moshi_agent.engine.call.model import model_of, recogniser_model_of
from moshi_agent.engine.capacity import Capacity, StepTimes
from moshi_agent.engine.commands import Close, Command, Open, Refer, Say, Stop
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.core import Core
from moshi_agent.engine.event_queue import Outlet
from moshi_agent.engine.inbox import CLOSED, NOT_STARTED, Inbox
from moshi_agent.engine.model_facts import ModelFacts, facts_of
from moshi_agent.engine.personas import PersonaOpenings, Personas
from moshi_agent.engine.prompt.prompt import Prompt, PromptSource, compile_prompt
from moshi_agent.engine.references import EncodeReference, References
from moshi_agent.engine.step.frame_step import FrameStep
from moshi_agent.engine.step.memory import free_bytes
from moshi_agent.engine.step.recogniser_step import RecogniserStep
from moshi_agent.engine.step.step_check import check_graphs
from moshi_agent.engine.user_transcriber import UserTranscriber
from moshi_agent.errors import ConfigError, EngineUnhealthy, MoshiAgentError
from moshi_agent.named_object import find_named, names_object
from moshi_agent.nn.cuda_graphs import give_back_memory
from moshi_agent.nn.device_errors import memory_for
from moshi_agent.nn.fast_paths import check_fast_paths
from moshi_agent.plural import counted
from moshi_agent.text.pieces import Tokenizer
from moshi_agent.text.sentences import words_to_say

_WARM_UP_STEPS = 6
_EXIT_S = 10.0  # that a program which exits without `close` waits for the step that is being taken


@dataclass(frozen=True)
class _Served:
    """What an engine has on its device, and what knows of it."""

    checkpoint: Checkpoint
    step: FrameStep
    recogniser: RecogniserStep | None
    transcriber: UserTranscriber | None
    core: Core
    openings: PersonaOpenings
    references: References
    model: ModelFacts

    def close(self) -> None:
        self.references.stop()
        if self.transcriber is not None:
            self.transcriber.abandon()
        self.step.close()
        if self.recogniser is not None:
            self.recogniser.close()


class LocalBackend:
    """Runs a `Core` on a thread of its own.

    Args:
        config: of the engine.
        failed: called in that thread when the core has become unhealthy.
    """

    def __init__(self, config: EngineConfig, failed: Callable[[], None] | None = None) -> None:
        self.config = config
        self._birthplace = Birthplace()
        self._times = StepTimes()
        self._inbox = Inbox()
        self._served: _Served | None = self._load(failed)
        self.model, self.metrics = self._served.model, self._served.core.metrics
        self._thread: threading.Thread | None = None

    def _load(self, failed: Callable[[], None] | None) -> _Served:
        config = self.config
        checkpoint = _load(config, config.source)
        # Refused before anything is made room for.
        facts = recogniser_model_of(checkpoint) if config.recogniser else model_of(checkpoint)
        if checkpoint.lm is not None:
            check_fast_paths(checkpoint.lm.config.temporal, checkpoint.lm.device, checkpoint.lm.dtype)
        # Before the step, which sees what memory is left and may make its cache smaller.
        recogniser, encode = _recogniser(config), _reference_encoder(config, checkpoint)
        step = FrameStep(
            checkpoint,
            config.capacity,
            conditions=dict(config.conditions),
            cfg_coef=config.cfg_coef,
            kv_cache=config.kv_cache,
            graphs=config.cuda_graphs,
        )
        personas = Personas(checkpoint, config.voices, config.personas)
        model = replace(
            facts_of(checkpoint),
            transcriber=_name_of(config.transcriber),
            voices=tuple(personas.voices),
            takes_roles=personas.are_taken,
        )
        inbox = self._inbox
        transcriber = None
        if callable(config.transcriber):
            transcriber = UserTranscriber(config.transcriber, inbox.send)
            facts = replace(facts, write_down=transcriber.take)
        if recogniser is not None:
            facts = replace(facts, hearing=recogniser.hearing)
        core = Core(
            inbox,
            step,
            facts,
            model.sampling,
            config,
            self._times,
            recogniser=recogniser,
            failed=failed,
        )
        openings = PersonaOpenings(personas, config, inbox.request, lambda key: inbox.send(Close(key)))
        references = References(checkpoint, encode)
        return _Served(checkpoint, step, recogniser, transcriber, core, openings, references, model)

    @property
    def _live(self) -> _Served:
        if self._served is None:
            raise EngineUnhealthy(CLOSED)
        return self._served

    def start(self) -> None:
        """Measures the step and begins to serve. Returns when it does."""
        self._birthplace.check()
        if self._thread is not None:
            return
        served = self._live
        # A thread inside of PyTorch when the interpreter is torn down would abort the program.
        atexit.register(self._stop_at_exit)
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(served, started), name="moshi-engine", daemon=True
        )
        self._thread.start()
        started.result()

    def _serve(self, served: _Served, started: Future[None]) -> None:
        with torch.inference_mode():
            try:
                # The number of threads is a setting of the thread that asks, and this one does all the work.
                torch.set_num_threads(self.config.threads)
                self._measure(served)
            except BaseException as error:
                self._thread = None  # as if it had never been started
                started.set_exception(error)
                return
            started.set_result(None)
            served.core.run()

    def _measure(self, served: _Served) -> None:
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size < self.config.capacity]
        sizes.append(self.config.capacity)
        recogniser = served.recogniser
        with memory_for(counted(self.config.capacity, "conversation"), "fewer of them (capacity)"):
            check_graphs(served.step)
            steps_ms = served.step.measure(sizes, _WARM_UP_STEPS)
        listening_ms = recogniser.measure(sizes, _WARM_UP_STEPS) if recogniser is not None else {}
        for rows, times in steps_ms.items():
            for step_ms, listened_ms in zip(times, listening_ms.get(rows, [0.0] * len(times)), strict=True):
                self._times.note(rows, step_ms + listened_ms)

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer."""
        if not self._birthplace.is_here:
            return
        if isinstance(command, Close) and self._served is not None:
            self._served.openings.withdraw(command.key)
        self._inbox.send(command)

    def request(self, command: Command, outlet: Outlet | None = None) -> Future[Any]:
        """Hands over a command and returns its answer to come."""
        refusal = self._birthplace.refusal
        if refusal is None and self._thread is None:
            refusal = EngineUnhealthy(NOT_STARTED)
        if refusal is not None:
            refused: Future[Any] = Future()
            refused.set_exception(refusal)
            return refused
        if isinstance(command, Open) and command.config.has_persona and self._served is not None:
            return self._served.openings.open(command, outlet)
        if isinstance(command, Refer) and self._served is not None:
            return self._served.references.refer(command, self._inbox.request)
        if isinstance(command, Say) and self._served is not None:
            return self._say(command, self._served.checkpoint.tokenizer)
        return self._inbox.request(command, outlet)

    def _say(self, command: Say, tokenizer: Tokenizer | None) -> Future[Any]:
        """Tokenizes here, in the caller's thread: nobody's frames are to wait for it."""
        try:
            words = words_to_say(tokenizer, command.text)
        except MoshiAgentError as error:
            refused: Future[Any] = Future()
            refused.set_exception(error)
            return refused
        return self._inbox.request(replace(command, words=words))

    def prompt(self, source: PromptSource) -> Prompt:
        """Returns the tokens of a prompt. Takes its time, in the caller's thread."""
        self._birthplace.check()
        return compile_prompt(source, self._live.checkpoint)

    def capacity(self) -> Capacity:
        """Returns what fits, as measured. Raises EngineUnhealthy in a fork, and once it is closed."""
        self._birthplace.check()
        served = self._live
        refusal = EngineUnhealthy(NOT_STARTED) if self._thread is None else served.core.refusal
        row_bytes = served.step.row_bytes
        row_bytes += served.recogniser.row_bytes if served.recogniser is not None else 0
        return Capacity(
            rows=self.config.capacity,
            live=self.metrics.snapshot().live_sessions,
            by_memory=self.config.capacity + free_bytes(served.step.device) // row_bytes,
            by_time=self._times.most_rows(),
            row_bytes=row_bytes,
            step_ms=self._times.table,
            budget_ms=self._times.budget_ms,
            free=0 if self._thread is None else served.core.free,
            refusal=None if refusal is None else str(refusal),
        )

    async def capacity_async(self) -> Capacity:
        """Does as `capacity` does: here nobody is waited for."""
        return self.capacity()

    def stop(self) -> None:
        """Ends every conversation and the thread, and frees the memory of the device."""
        self._stop(None)

    def _stop_at_exit(self) -> None:
        self._stop(_EXIT_S)

    def _stop(self, timeout_s: float | None) -> None:
        if not self._birthplace.is_here:
            return
        if self._thread is not None:
            self._inbox.send(Stop())
            if threading.current_thread() is self._thread:
                return
            self._thread.join(timeout_s)
            atexit.unregister(self._stop_at_exit)
            if self._thread.is_alive():
                return
        served, self._served = self._served, None
        if served is not None:
            on_cuda = served.step.device.type == "cuda"
            served.close()
            del served
            if on_cuda:
                give_back_memory()


def _name_of(transcriber: object) -> str | None:
    is_name = isinstance(transcriber, str | None)
    return transcriber if is_name else getattr(transcriber, "__name__", type(transcriber).__name__)


def _recogniser(config: EngineConfig) -> RecogniserStep | None:
    """The recogniser that is asked for. Raises ConfigError for a checkpoint of another kind."""
    if not isinstance(config.transcriber, str):
        return None
    # The revision and the low-rank updates are the model's own.
    checkpoint = _load(replace(config, revision=None, lora=None), config.transcriber)
    return RecogniserStep(checkpoint, config.capacity, kv_cache=config.kv_cache, graphs=config.cuda_graphs)


def _reference_encoder(config: EngineConfig, checkpoint: Checkpoint) -> EncodeReference | None:
    """What makes rows of references; a model of its own is on the device of the language model.

    Raises:
        ConfigError: it cannot be had, or the checkpoint takes no rows.
    """
    wanted = config.reference_encoder
    if not isinstance(wanted, str):
        return wanted
    if names_object(wanted):
        return cast("EncodeReference", find_named(wanted, "the encoder of references"))
    if checkpoint.lm is None:
        raise ConfigError(f"an encoder of references ({wanted}) for {checkpoint.name}, which takes none")
    source = None if wanted == "auto" else wanted
    device = str(checkpoint.lm.device)
    return load_reference_encoder(checkpoint.lm.config, source=source, device=device, token=config.token)


def _load(config: EngineConfig, source: str) -> Checkpoint:
    return load_checkpoint(
        source,
        device=config.device,
        dtype=config.dtype,
        revision=config.revision,
        token=config.token,
        lora=config.lora,
        pack=cast(Any, config.pack),
        progress=True,
    )
