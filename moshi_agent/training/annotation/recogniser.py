"""Chooses a speech recogniser by name."""

from __future__ import annotations

import importlib
import inspect
from typing import cast

from moshi_agent.errors import ConfigError
from moshi_agent.training.annotation.placed_word import Recogniser

RECOGNISERS = "whisper[:MODEL], pocketsphinx, kyutai-stt:REPO|FOLDER or MODULE:NAME"


def open_recogniser(name: str, *, language: str | None = None, device: str = "cpu") -> Recogniser:
    """Loads a recogniser.

    Args:
        name: `whisper` or `whisper:MODEL` (a size, a repository or a folder of faster-whisper; `medium` by
            default), `pocketsphinx`, `kyutai-stt:MODEL` (a repository or folder), or `module:name` of a
            callable as `Recogniser` says. A class is made without arguments first.
        language: a code such as `en`; None lets the recogniser find out.

    Raises:
        ConfigError: there is no such recogniser, or it cannot be loaded.
        CheckpointError: a checkpoint of Kyutai's that is missing or damaged.
    """
    kind, _, model = name.partition(":")
    try:
        if kind == "whisper":
            from moshi_agent.training.annotation.whisper import WhisperRecogniser

            return WhisperRecogniser(model or "medium", language=language, device=device)
        if kind == "pocketsphinx":
            from moshi_agent.training.annotation.sphinx import SphinxRecogniser

            return SphinxRecogniser(language=language)
        if kind == "kyutai-stt" and model:
            from moshi_agent.training.annotation.kyutai_stt import KyutaiRecogniser

            return KyutaiRecogniser(model, device=device)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("moshi_agent"):
            raise
        hint = "pip install 'moshi-agent[annotate]'"
        raise ConfigError(f"the recogniser {kind} needs the package {error.name}: {hint}") from error
    if not kind or not model:
        raise ConfigError(f"there is no recogniser {name!r}; accepted: {RECOGNISERS}")
    return _by_name(kind, model)


def _by_name(module: str, attribute: str) -> Recogniser:
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the recogniser {module}:{attribute} cannot be imported: {error}") from error
    made: object = found() if inspect.isclass(found) else found
    if not callable(made):
        raise ConfigError(f"the recogniser {module}:{attribute} is nothing that can be called")
    return cast("Recogniser", made)
