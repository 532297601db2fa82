"""How `generate` chooses: the settings of Transformers that we have, read, written and checked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.checkpoint.transformers.write_config import GENERATION_CONFIG_NAME
from moshi_agent.checkpoint.write import make_folder, write_json
from moshi_agent.errors import InputError

_DEFAULT_NEW_TOKENS = 20

# Settings of Transformers that have one value here, or none that would change anything.
_FIXED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "use_cache": (True, None),
    "repetition_penalty": (1.0, None),
    "output_scores": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
    "synced_gpus": (False, None),
    "streamer": (None,),
    "logits_processor": (None,),
    "stopping_criteria": (None,),
    "prefix_allowed_tokens_fn": (None,),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
}
_DEPTH_FIXED = ("min_length", "max_length", "cache_implementation")


@dataclass
class GenerationConfig:
    """Sets up `generate`, by the names and defaults of Transformers."""

    max_length: int | None = None  # tokens in all; by default 20 new ones
    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50  # 0 keeps all
    top_p: float = 1.0
    num_return_sequences: int = 1
    return_dict_in_generate: bool = False
    output_logits: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    depth_decoder_config: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a `generation_config.json`, and ignores keys that have no use here."""
        known = {one.name for one in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known and value is not None})

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **overrides: Any) -> Self:
        """Reads the settings beside a checkpoint of Transformers' format, or takes the defaults."""
        path = open_source(source).find(GENERATION_CONFIG_NAME)
        return cls.from_dict(({} if path is None else read_json(path)) | overrides)

    def to_dict(self) -> dict[str, Any]:
        """Returns every setting that is not the default."""
        default = GenerationConfig()
        return {key: value for key, value in vars(self).items() if value != getattr(default, key)}

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes `generation_config.json`. Raises OutputError where it cannot."""
        make_folder(Path(save_directory))
        write_json(Path(save_directory) / GENERATION_CONFIG_NAME, self.to_dict(), sort_keys=True)

    def changed(self, arguments: Mapping[str, Any]) -> Self:
        """These settings with the keyword arguments of one call; `depth_decoder_*` go to the depth
        transformer.

        Raises:
            InputError: an argument that is not known, or a value that is not supported.
        """
        given = dict(arguments)
        depth = dict(self.depth_decoder_config)
        for key in [key for key in given if key.startswith("depth_") and key != "depth_decoder_config"]:
            depth[key.removeprefix("depth_").removeprefix("decoder_")] = given.pop(key)
        for key, accepted in _FIXED.items():
            if given.pop(key, accepted[0]) not in accepted:
                raise InputError(f"{key}={arguments[key]!r} is not supported; accepted: {accepted[0]}")
        _refuse_unknown(given, {one.name for one in dataclasses.fields(self)})
        settings = dataclasses.replace(self, **({"depth_decoder_config": depth} | given))
        settings.check()
        return settings

    def check(self) -> None:
        """Raises InputError for values that cannot be used."""
        for name, one in (("", self), ("depth_decoder_", self.depth())):
            if one.do_sample and one.temperature <= 0:
                raise InputError(
                    f"{name}temperature={one.temperature}; accepted: above 0 (or do_sample=False)"
                )
            if one.top_k < 0 or not 0 < one.top_p <= 1:
                raise InputError(
                    f"{name}top_k={one.top_k}, {name}top_p={one.top_p}; accepted: 0 or more, and above 0 to 1"
                )
        if self.num_return_sequences < 1:
            raise InputError(f"num_return_sequences={self.num_return_sequences}; accepted: 1 or more")
        if self.num_return_sequences > 1 and not self.do_sample and not self.depth().do_sample:
            raise InputError("num_return_sequences above 1 needs do_sample=True: all would be the same")

    def depth(self) -> GenerationConfig:
        """Returns the settings of the depth transformer. Raises InputError for an unknown one."""
        values = {key: value for key, value in self.depth_decoder_config.items() if key not in _DEPTH_FIXED}
        _refuse_unknown(values, {"do_sample", "temperature", "top_k", "top_p"}, "depth_decoder_")
        return GenerationConfig(**{key: value for key, value in values.items() if value is not None})

    def new_tokens(self, length: int, default: int = _DEFAULT_NEW_TOKENS) -> int:
        """Returns how many tokens to generate behind `length` that are there.

        Raises:
            InputError: none are left to be generated.
        """
        count = default
        if self.max_new_tokens is not None:
            count = self.max_new_tokens
        elif self.max_length is not None:
            count = self.max_length - length
        if count < 1:
            raise InputError(
                f"max_new_tokens={self.max_new_tokens}, max_length={self.max_length} with {length} tokens of "
                "input; accepted: at least one new token"
            )
        return count


def _refuse_unknown(given: Mapping[str, Any], accepted: set[str], prefix: str = "") -> None:
    unknown = sorted(set(given) - accepted)
    if unknown:
        shown = ", ".join(prefix + key for key in unknown)
        raise InputError(
            f"generate: {shown} not known; accepted: {', '.join(prefix + key for key in sorted(accepted))}"
        )
