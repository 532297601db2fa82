"""A checkpoint that is loaded: its models, and what it says about their use."""

from __future__ import annotations

from dataclasses import dataclass, field

from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.translation import END_OF_TEXT, Ends
from moshi_agent.checkpoint.usage import Kind, Usage
from moshi_agent.checkpoint.voices import Voices
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel

REFERENCE_SYMBOL = "<reference>"  # in a tokenizer: the model asks for a reference

# What those are that hold no conversation, and what they are for.
_NO_CONVERSATION = {
    "codec": "a codec alone",
    "recogniser": "a recogniser, which writes down what it hears (`transcriber=`, `recogniser=True`)",
    "synthesiser": "a synthesiser, which reads a text aloud and hears nobody",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Usage):
    """Models that are ready, and what their checkpoint says about their use."""

    name: str
    mimi: MimiModel
    mimi_config: MimiConfig
    lm: LMModel | None  # None for a codec alone
    config: MoshiConfig | None
    tokenizer: SentencePieceProcessor | None  # None where the checkpoint has no sentencepiece model
    voices: Voices = field(default_factory=Voices)  # that came with it

    @property
    def kind(self) -> Kind:
        """What the checkpoint is good for."""
        return self.kind_of(None if self.lm is None else self.lm.config)

    @property
    def context_s(self) -> float | None:
        """How far back the language model remembers; None for all of it, and for a codec alone."""
        context = None if self.lm is None else self.lm.config.temporal.context
        return None if context is None else context / self.mimi.frame_rate

    @property
    def reference_token_id(self) -> int | None:
        """The text token by which the model asks for a reference; None for one that does not ask.

        MoshiRAG's configuration names it. Where Kyutai's package is to take the configuration, which would
        refuse that key, the tokenizer says it: by a control symbol `<reference>`.
        """
        said = None if self.lm is None else self.lm.config.reference_token_id
        if self.lm is None or said is not None or self.tokenizer is None:
            return said
        token = self.tokenizer.PieceToId(REFERENCE_SYMBOL)
        is_symbol = self.tokenizer.IsControl(token) and self.tokenizer.IdToPiece(token) == REFERENCE_SYMBOL
        return token if is_symbol else None

    @property
    def ends(self) -> Ends | None:
        """How a translator is told of the end, and tells its own; None for every other kind."""
        if self.lm is None or self.kind != "translator":
            return None
        text_token = END_OF_TEXT if self.tokenizer is None else self.tokenizer.eos_id()
        return Ends(self.lm.card, self.lm.config.num_user_codebooks, text_token)

    def conversation_lm(self) -> LMModel:
        """Gives the language model to whoever is to talk with it.

        Raises:
            ConfigError: a checkpoint that holds no conversation, with what it is.
        """
        if self.lm is not None and self.kind in ("dialogue", "translator"):
            return self.lm
        raise ConfigError(
            f"{self.name} is {_NO_CONVERSATION[self.kind]}: it holds no conversation; "
            "accepted: a model of dialogue or translation, such as kyutai/moshika-pytorch-bf16"
        )
