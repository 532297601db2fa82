"""What those who use an engine may want to know of its model."""

from __future__ import annotations

from dataclasses import dataclass

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.usage import Kind
from moshi_agent.config import ReferenceKind, SamplingConfig


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Describes a checkpoint, as far as it matters outside the engine."""

    name: str
    model_type: str  # "moshi", "hibiki", "personaplex", ...
    kind: Kind  # "dialogue", "translator" or "recogniser"
    sampling: SamplingConfig  # as the checkpoint advises
    context_s: float | None  # how far back it remembers
    text_delay_s: float  # how much later its text is than the audio it is about
    takes_roles: bool = False  # and voices, by name, from a file or as audio
    voices: tuple[str, ...] = ()  # names that may be asked for
    references: ReferenceKind | None = None  # how it takes what was found; None: `say` is for that
    asks: bool = False  # for references, of its own accord
    transcriber: str | None = None  # the recogniser beside it, which writes down what users say


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """Reads the facts of a checkpoint. A recogniser writes what is likeliest, without chance."""
    is_recogniser = checkpoint.kind == "recogniser"
    lm = checkpoint.lm
    assert lm is not None
    return ModelFacts(
        name=checkpoint.name,
        model_type=checkpoint.model_type,
        kind=checkpoint.kind,
        sampling=SamplingConfig(greedy=True) if is_recogniser else checkpoint.advised_sampling,
        context_s=checkpoint.context_s,
        text_delay_s=checkpoint.text_delay_s,
        references=lm.takes_references,
        asks=checkpoint.reference_token_id is not None,
    )
