"""What of the service can be changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pipecat.services.settings import LLMSettings
from pipecat.utils.types import NOT_GIVEN, NotGiven

from moshi_agent import SamplingConfig

# Our sampling by Pipecat's names: the standard ones are about the audio, as in Kyutai's `temp` and `top_k`.
_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "text_temperature": "temp_text",
    "text_top_k": "top_k_text",
    "text_top_p": "top_p_text",
}
SAMPLING_FIELDS = frozenset(_SAMPLING)

# Settings of other services that mean nothing to a model that is not asked for answers.
UNSUPPORTED_FIELDS = ("max_tokens", "frequency_penalty", "presence_penalty")


@dataclass
class MoshiLLMSettings(LLMSettings):
    """Sets up MoshiLLMService. None leaves a setting of the sampling as it is without it.

    `temperature`, `top_k` and `top_p` are those of the audio. Sampling may be changed in mid-conversation;
    `seed`, `role`, `system_instruction` and `voice` hold from the next conversation on.

    Parameters:
        text_temperature: Sampling temperature of the inner monologue.
        text_top_k: Top-k of the inner monologue.
        text_top_p: Nucleus sampling probability of the inner monologue.
        voice: For models that take one: a name among `engine.model.voices`, or a Path to a recording.
        role: What the bot is to be, in words, for models that take it. Without one it is the system
            instruction, or else the system message of the context that begins the conversation.
    """

    text_temperature: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    text_top_k: int | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    text_top_p: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    voice: str | Path | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    role: str | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)

    def sampling(self, base: SamplingConfig) -> SamplingConfig:
        """Returns the sampling that these settings ask for, over `base`.

        Raises:
            ConfigError: a value out of range.
        """
        given = {ours: getattr(self, theirs) for theirs, ours in _SAMPLING.items()}
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(base, **changes)


def complete(settings: MoshiLLMSettings | None, model: str) -> MoshiLLMSettings:
    """Returns all settings, each with a value, as a service has to hold them."""
    whole = MoshiLLMSettings(
        model=model,
        system_instruction=None,
        temperature=None,
        max_tokens=None,
        top_p=None,
        top_k=None,
        frequency_penalty=None,
        presence_penalty=None,
        seed=None,
        filter_incomplete_user_turns=False,
        user_turn_completion_config=None,
        use_provider_thinking_default=False,
        text_temperature=None,
        text_top_k=None,
        text_top_p=None,
        voice=None,
        role=None,
    )
    if settings is not None:
        whole.apply_update(settings)
    return whole
