"""What a checkpoint says about its use, beside the sizes of its model: read and checked here, once.

The sections are those of `config.json` in Kyutai's checkpoints; other formats say the same in their own way.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from moshi_agent.config import MoshiConfig, SamplingConfig
from moshi_agent.errors import ConfigError

# What a checkpoint is good for. A translator is told of the end of what it hears, a recogniser only writes,
# a synthesiser only speaks.
Kind = Literal["codec", "dialogue", "translator", "recogniser", "synthesiser"]

# `model_type` in config.json.
MOSHI = "moshi"
PERSONAPLEX = "personaplex"  # a dialogue that takes a role and a voice
HIBIKI = "hibiki"
TTS = "tts"

_SECTIONS = ("lm_gen_config", "tts_config", "stt_config", "model_id")
_LONGEST_S = 60.0
_LARGEST_CFG_COEF = 100.0

# The arguments of LMGen that a file can give.
_SAMPLING = ("temp", "temp_text", "top_k", "top_k_text", "top_p", "top_p_text")
_COUNTS = ("top_k", "top_k_text", "seed")
_FLAGS = ("use_sampling", "check", "support_out_of_sync", "cfg_is_no_text")
_ACCEPTED = (*_SAMPLING, "seed", *_FLAGS, "cfg_coef", "cfg_is_masked_until")
_OTHER_NAMES = {"text_temp": "temp_text"}  # as Kyutai's models of speech synthesis write it
_SLIP = 0.8  # how alike two names are, of 1, when one is likely to be meant for the other

_log = logging.getLogger("moshi_agent.checkpoint")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a model is meant to be used, as its checkpoint says it.

    Raises:
        ConfigError: a value that is not accepted, by its key.
    """

    model_type: str = MOSHI
    lm_gen_config: Mapping[str, Any] = field(default_factory=dict[str, Any])  # arguments of LMGen
    tts_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stt_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model_id: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not isinstance(self.model_type, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"model_type={self.model_type!r}; accepted: a name, such as 'moshi'")
        for name in _SECTIONS:
            object.__setattr__(self, name, _section(name, getattr(self, name)))
        object.__setattr__(self, "lm_gen_config", read_lm_gen_config(self.lm_gen_config))
        _ = self.advised_sampling, self.text_delay_s, self.silence_prefix_s  # which check what they read

    @property
    def advised_sampling(self) -> SamplingConfig:
        """How the checkpoint advises to choose tokens; what it does not say is as LMGen has it."""
        chosen = {name: self.lm_gen_config[name] for name in _SAMPLING if name in self.lm_gen_config}
        try:
            return SamplingConfig(greedy=not self.lm_gen_config.get("use_sampling", True), **chosen)
        except ConfigError as error:
            raise ConfigError(f"lm_gen_config: {error}") from error

    @property
    def advised_cfg_coef(self) -> float:
        """The classifier-free guidance that the checkpoint advises; 1 is none."""
        return float(self.lm_gen_config.get("cfg_coef", 1.0))

    @property
    def text_delay_s(self) -> float:
        """How much later the model's text is than the sound that it is about."""
        return _seconds(self.stt_config, "audio_delay_seconds")

    @property
    def silence_prefix_s(self) -> float:
        """How much silence the model wants to hear before anything else."""
        return _seconds(self.stt_config, "audio_silence_prefix_seconds")

    @property
    def takes_personas(self) -> bool:
        """Whether the model was trained to take a role and a voice."""
        return self.model_type == PERSONAPLEX

    def kind_of(self, config: MoshiConfig | None) -> Kind:
        """Tells what a language model of this configuration is good for; None is a codec alone."""
        if config is None:
            return "codec"
        if self.model_type == TTS or self.tts_config:
            return "synthesiser"
        if not config.dep_q:
            return "recogniser"
        if not config.num_user_codebooks:
            return "synthesiser"
        return "translator" if self.model_type == HIBIKI else "dialogue"


def read_lm_gen_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reads arguments of LMGen from a file: checked, by their names, and no others.

    A key that looks like a slip of an accepted one is refused: somebody wanted it to have an effect. Other
    unknown keys are those of other tools; a warning names them. A null says nothing.

    Raises:
        ConfigError: a slip, or a value of the wrong kind or out of range.
    """
    given = {_OTHER_NAMES.get(key, key): value for key, value in values.items() if value is not None}
    unknown = sorted(set(given) - set(_ACCEPTED))
    for key in unknown:
        meant = difflib.get_close_matches(key, _ACCEPTED, 1, _SLIP)
        if meant:
            raise ConfigError(
                f"lm_gen_config: unknown key {key!r}, is {meant[0]!r} meant? accepted: {', '.join(_ACCEPTED)}"
            )
    if unknown:
        _log.warning("lm_gen_config: %s has no effect here", ", ".join(unknown))
    read = {key: value for key, value in given.items() if key in _ACCEPTED}
    for key, value in read.items():
        _check_argument(key, value)
    return read


def _check_argument(key: str, value: object) -> None:
    if key in _FLAGS:
        fits, accepted = isinstance(value, bool), "true or false"
    elif key in _COUNTS:
        fits, accepted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif key == "cfg_coef":
        fits, accepted = _is_number(value, 0, _LARGEST_CFG_COEF), f"0 to {_LARGEST_CFG_COEF:g}, 1 is none"
    elif key == "cfg_is_masked_until":
        fits, accepted = isinstance(value, list), "a list of steps"
    else:
        fits, accepted = _is_number(value, 0, math.inf), "a number, 0 or more"
    if not fits:
        raise ConfigError(f"lm_gen_config: {key}={value!r}; accepted: {accepted}")


def _section(name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}={value!r}; accepted: an object")
    return cast("Mapping[str, Any]", value)


def _seconds(section: Mapping[str, Any], key: str) -> float:
    value = section.get(key, 0.0)
    if not _is_number(value, 0, _LONGEST_S):
        raise ConfigError(f"stt_config: {key}={value!r}; accepted: 0 to {_LONGEST_S:g} seconds")
    return float(value)


def _is_number(value: object, least: float, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and least <= value <= most
