"""How an engine and its conversations are set up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from moshi_agent.config import KVCache, SamplingConfig, require_value
from moshi_agent.engine.asking import AskConfig, ReferenceUse
from moshi_agent.engine.prompt.prompt import Prompt, Recording
from moshi_agent.errors import ConfigError

# Refuse: `push` raises BacklogFull. Drop oldest: what came first is left out, and InputSkipped tells of it;
# that is right for a caller whose network stalled and then brings all at once what was said meanwhile.
WhenLate = Literal["refuse", "drop_oldest"]


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Sets up one conversation."""

    sampling: SamplingConfig | None = None  # None samples as the checkpoint advises; its seed is not used
    seed: int | None = None  # of the sampling; None draws one
    greet: bool = False  # asks a model that was trained so to speak first
    prompt: Prompt | None = None  # what is forced before the conversation
    voice: str | Path | Recording | NDArray[np.float32] | None = None  # see `Engine.session`
    role: str | None = None  # what the bot is to be, in words: for models that take one
    output_sample_rate: int = 24_000  # of the audio chunks
    live: bool = True  # in real time; else input is taken as fast as it comes and nothing is left out
    stall_ms: float = 200.0  # live: input missing for longer is replaced by silence
    backlog_limit_ms: float = 160.0  # live: more waiting input than this loses silent frames
    when_late: WhenLate = "refuse"  # live: what happens to input beyond some seconds that wait
    output_limit_ms: float = 120.0  # live: output this far ahead of real time loses digital silence
    queue_s: float = 20.0  # audio that waits for a slow consumer; the oldest is dropped beyond it
    digital_silence: bool = True  # where the bot says nothing its samples are exactly zero
    silence_floor_dbfs: float = -55.0  # what counts as nothing
    tail_ms: float = 4000.0  # silence heard after the end of the input, longer while the bot speaks
    longest_tail_ms: float = 20_000.0
    transcribe: bool = True  # what the user says is written down, by an engine that has a recogniser
    asking: AskConfig | None = None  # when something is looked up; None: when the application asks for it
    references: ReferenceUse = "as_trained"  # what was found; "say" says it as it is, by any checkpoint
    refresh: bool = False  # begins anew from the prompt, in a silence, once the context is full

    def __post_init__(self) -> None:
        for name in (
            "stall_ms",
            "backlog_limit_ms",
            "output_limit_ms",
            "queue_s",
            "tail_ms",
            "longest_tail_ms",
        ):
            value: float = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value}; accepted: 0 or more")
        if self.output_limit_ms == 0:
            raise ConfigError("output_limit_ms=0; accepted: above 0, a chunk of 80 ms and some jitter")
        if not -200 <= self.silence_floor_dbfs <= 100:
            raise ConfigError(f"silence_floor_dbfs={self.silence_floor_dbfs}; accepted: -200 to 100")
        if not 4_000 <= self.output_sample_rate <= 192_000:
            raise ConfigError(f"output_sample_rate={self.output_sample_rate}; accepted: 4000 to 192000 Hz")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}; accepted: a 64-bit integer")

        require_value("when_late", self.when_late, get_args(WhenLate))
        require_value("references", self.references, get_args(ReferenceUse))
        self._check_persona()

    def _check_persona(self) -> None:
        if isinstance(self.voice, np.ndarray):
            object.__setattr__(self, "voice", Recording(self.voice))
        if not isinstance(self.voice, str | Path | Recording | None):
            kind = type(self.voice).__name__
            raise ConfigError(f"a voice of type {kind}; accepted: a name, a Path, or audio at 24 kHz")
        if self.role is not None and not (isinstance(self.role, str) and self.role.strip()):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"role={self.role!r}; accepted: text")
        if self.has_persona and (self.prompt is not None or self.greet):
            raise ConfigError("a voice or a role with a prompt or greet; accepted: either")

    @property
    def has_persona(self) -> bool:
        """Whether a voice or a role is wanted."""
        return self.voice is not None or self.role is not None

    def sampling_or(self, advised: SamplingConfig, drawn_seed: int) -> SamplingConfig:
        """Returns the sampling of this conversation, where the checkpoint advises `advised`."""
        return replace(self.sampling or advised, seed=drawn_seed if self.seed is None else self.seed)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sets up one engine: a checkpoint on a device."""

    source: str = "tiny"  # `tiny`, a repository or a folder, as for `load_checkpoint`
    device: str = "auto"
    dtype: str | None = None  # of the language model: float32, bfloat16, float16; int8, int4
    pack: str | None = "auto"
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    lora: str | None = None
    voices: str | Path | None = None  # a folder of recordings and voice files, which their names stand for
    personas: bool | None = None  # takes roles and voices, as PersonaPlex does; None asks the checkpoint
    cfg_coef: float | None = None  # guidance: 1 is none, else a row takes twice the room; None is as advised
    conditions: Mapping[str, str] | tuple[tuple[str, str], ...] = ()  # where not as the model was released
    capacity: int = 8  # conversations at once
    threads: int = 1  # of the CPU; more than there are idle cores makes every step slower
    batch_wait_ms: float = 40.0  # at most, that a step waits for others whose frames are about to come
    waiting: int = 0  # conversations that may wait for a free row
    wait_timeout_s: float = 10.0
    admit_by_time: bool = True  # refuses who would make the measured step exceed its budget
    kv_cache: KVCache = "auto"  # of the temporal transformer; auto is int8 on CUDA where floats do not fit
    cuda_graphs: bool = True  # on CUDA; without, every step is launched kernel by kernel
    # Writes down what users say: a recogniser's checkpoint, as `source`, or a function as `Transcribe`.
    transcriber: str | Callable[[NDArray[np.float32]], Iterable[tuple[str, float, float]]] | None = None
    # Makes rows of references, for a model that takes those: a function, text -> [n, row_dim], or what names
    # one, `FILE.py:NAME`; `auto` is the encoder that the checkpoint names; else a folder or a repository.
    reference_encoder: str | Callable[[str], Any] | None = None
    recogniser: bool = False  # the checkpoint is a recogniser alone: sessions give words, and no audio
    process: bool = False  # runs in a process of its own: this one may then be as busy as it likes
    hang_s: float | None = 30.0  # an engine's process that answers nothing for so long is ended; None: never

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigError(f"capacity={self.capacity}; accepted: 1 or more")
        if self.threads < 1:
            raise ConfigError(f"threads={self.threads}; accepted: 1 or more")
        if self.hang_s is not None and not self.hang_s > 0:
            raise ConfigError(f"hang_s={self.hang_s}; accepted: more than 0, or None")
        if self.waiting < 0 or self.batch_wait_ms < 0 or self.wait_timeout_s < 0:
            raise ConfigError("waiting, batch_wait_ms and wait_timeout_s; accepted: 0 or more")
        if self.cfg_coef is not None and not 0 <= self.cfg_coef <= 100:
            raise ConfigError(f"cfg_coef={self.cfg_coef}; accepted: 0 to 100, 1 being no guidance")
        if self.recogniser and self.transcriber is not None:
            raise ConfigError("recogniser=True with a transcriber; accepted: either")
        require_value("kv_cache", self.kv_cache, get_args(KVCache))
        # Pairs can be hashed, and engines are shared by their configuration.
        object.__setattr__(self, "conditions", tuple(sorted(dict(self.conditions).items())))


class EngineOptions(TypedDict, total=False):
    """Types the keywords of `Engine.load`: the fields of `EngineConfig` but for its source."""

    device: str
    dtype: str | None
    pack: str | None
    revision: str | None
    token: str | None
    lora: str | None
    voices: str | Path | None
    personas: bool | None
    cfg_coef: float | None
    conditions: Mapping[str, str] | tuple[tuple[str, str], ...]
    capacity: int
    threads: int
    batch_wait_ms: float
    waiting: int
    wait_timeout_s: float
    admit_by_time: bool
    kv_cache: KVCache
    cuda_graphs: bool
    transcriber: str | Callable[[NDArray[np.float32]], Iterable[tuple[str, float, float]]] | None
    reference_encoder: str | Callable[[str], Any] | None
    recogniser: bool
    process: bool
    hang_s: float | None
