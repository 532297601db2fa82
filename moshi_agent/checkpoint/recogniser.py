"""What a checkpoint for speech recognition says about its use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.errors import ConfigError

if TYPE_CHECKING:
    from moshi_agent.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Recogniser:
    """A language model that hears and writes, and does not speak."""

    name: str
    delay_s: float  # by which what it writes is later than what it hears
    prefix_s: float  # of silence that it wants to hear before anything else
    pause_heads: int  # 0 for a model that tells no pauses

    @staticmethod
    def of(checkpoint: Checkpoint) -> Recogniser:
        """Raises ConfigError for any other kind of checkpoint, and for one without a tokenizer."""
        lm = checkpoint.lm
        if lm is None:
            raise _other_kind(checkpoint, "a codec alone")
        if checkpoint.kind != "recogniser" or not lm.config.num_user_codebooks:
            raise _other_kind(checkpoint, f"a model of type {checkpoint.model_type!r}, which speaks")
        if checkpoint.tokenizer is None:
            raise _other_kind(checkpoint, "without a sentencepiece model to read what it writes")
        return Recogniser(
            name=checkpoint.name,
            delay_s=checkpoint.text_delay_s,
            prefix_s=checkpoint.silence_prefix_s,
            pause_heads=len(lm.extra_heads),
        )


def _other_kind(checkpoint: Checkpoint, kind: str) -> ConfigError:
    accepted = "a checkpoint for speech recognition, such as kyutai/stt-1b-en_fr"
    return ConfigError(f"{checkpoint.name} is {kind}: it cannot transcribe; accepted: {accepted}")


def is_recogniser(source: str) -> bool:
    """Tells, before anything is loaded, whether a checkpoint's `config.json` says that it makes no audio.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    config = open_source(source).find("config.json")
    return config is not None and read_json(config).get("dep_q") == 0
