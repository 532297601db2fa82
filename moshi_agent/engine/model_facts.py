"""What those who use an engine may want to know of its model."""

from __future__ import annotations

from dataclasses import dataclass

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.config import advised_sampling
from moshi_agent.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A checkpoint, as far as it matters outside the engine."""

    name: str
    model_type: str  # "moshi", "hibiki", "stt", ...
    sampling: SamplingConfig  # as the checkpoint advises
    context_s: float | None  # how far back it remembers
    text_delay_s: float  # how much later its text is than the audio it is about
    speaks: bool  # False for speech recognition
    takes_roles: bool = False  # and voices, by name, from a file or as audio
    voices: tuple[str, ...] = ()  # names that may be asked for
    transcriber: str | None = None  # the recogniser beside it, which writes down what users say


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Raises ConfigError for a codec alone."""
    lm = checkpoint.lm
    if lm is None:
        raise ConfigError(f"{checkpoint.name} holds a codec alone; conversations need a language model")
    context = lm.config.temporal.context
    return ModelFacts(
        name=checkpoint.name,
        model_type=checkpoint.model_type,
        sampling=advised_sampling(checkpoint.lm_gen_config),
        context_s=None if context is None else context / checkpoint.mimi.frame_rate,
        text_delay_s=float(checkpoint.stt_config.get("audio_delay_seconds", 0.0)),
        speaks=lm.dep_q > 0,
    )
