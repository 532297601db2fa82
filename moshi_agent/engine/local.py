"""The engine in this process: a checkpoint, its rows, and the thread that owns them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, cast

import torch

from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.engine.capacity import Capacity, StepTimes
from moshi_agent.engine.commands import Command, Stop
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.core import Core
from moshi_agent.engine.frame_step import FrameStep
from moshi_agent.engine.line import Model, Outlet
from moshi_agent.engine.memory import free_bytes
from moshi_agent.engine.metrics import Metrics
from moshi_agent.engine.model_facts import facts_of
from moshi_agent.engine.prompt import Prompt, PromptSource, compile_prompt
from moshi_agent.errors import ConfigError, EngineUnhealthy

_WARM_UP_STEPS = 6


class LocalBackend:
    """Runs a `Core` on a thread of its own."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.checkpoint = _load(config)
        self._step = FrameStep(
            self.checkpoint, config.capacity, kv_cache=config.kv_cache, graphs=config.cuda_graphs
        )
        self._times = StepTimes()
        self.model = facts_of(self.checkpoint)
        self.core = Core(self._step, _model(self.checkpoint), self.model.sampling, config, self._times)
        self._thread: threading.Thread | None = None

    @property
    def metrics(self) -> Metrics:
        """Of the engine."""
        return self.core.metrics

    def start(self) -> None:
        """Measures the step and begins to serve. Returns when it does."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._serve, name="moshi-engine", daemon=True)
        started: Future[None] = Future()
        self._started = started
        self._thread.start()
        started.result()

    def _serve(self) -> None:
        with torch.inference_mode():
            try:
                # The number of threads is a setting of the thread that asks, and this one does all the work.
                torch.set_num_threads(self.config.threads)
                self._measure()
            except BaseException as error:
                self._thread = None  # as if it had never been started
                self._started.set_exception(error)
                return
            self._started.set_result(None)
            self.core.run()

    def _measure(self) -> None:
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size < self.config.capacity]
        for rows, times in self._step.measure([*sizes, self.config.capacity], _WARM_UP_STEPS).items():
            for step_ms in times:
                self._times.note(rows, step_ms)

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer."""
        self.core.send(command)

    def request(self, command: Command, outlet: Outlet | None = None) -> Future[Any]:
        """Hands over a command and returns its answer to come."""
        if self._thread is None:
            reply: Future[Any] = Future()
            reply.set_exception(EngineUnhealthy("the engine has not been started"))
            return reply
        return self.core.request(command, outlet)

    def prompt(self, source: PromptSource) -> Prompt:
        """The tokens of a prompt. Takes its time, in the caller's thread."""
        return compile_prompt(source, self.checkpoint)

    def capacity(self) -> Capacity:
        """What fits, as measured."""
        row_bytes = self._step.row_bytes
        return Capacity(
            rows=self.config.capacity,
            live=self.core.metrics.snapshot().live_sessions,
            by_memory=self.config.capacity + free_bytes(self._step.device) // row_bytes,
            by_time=self._times.most_rows(),
            row_bytes=row_bytes,
            step_ms=self._times.table,
            budget_ms=self._times.budget_ms,
        )

    def stop(self) -> None:
        """Ends every conversation and the thread."""
        if self._thread is None:
            return
        self.core.send(Stop())
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _load(config: EngineConfig) -> Checkpoint:
    dtype = None
    if config.dtype is not None:
        dtype = getattr(torch, config.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ConfigError(f"dtype={config.dtype!r}; accepted: float32, bfloat16, float16")
    return load_checkpoint(
        config.source,
        device=config.device,
        dtype=dtype,
        revision=config.revision,
        token=config.token,
        lora=config.lora,
        pack=cast(Any, config.pack),
        progress=True,
    )


def _model(checkpoint: Checkpoint) -> Model:
    lm = checkpoint.lm
    if lm is None:
        raise ConfigError(f"{checkpoint.name} holds a codec alone; conversations need a language model")
    return Model(
        tokenizer=checkpoint.tokenizer,
        num_streams=lm.num_codebooks,
        max_delay=lm.config.max_delay,
        context=lm.config.temporal.context,
        delay_s=float(checkpoint.stt_config.get("audio_delay_seconds", 0.0)),
    )
