"""Roles and voices that clients wish for, against what the model takes."""

from __future__ import annotations

from dataclasses import dataclass

from moshi_agent import InputError
from moshi_agent.engine.model_facts import ModelFacts

_LONGEST_ROLE = 4_000  # characters; each of its pieces is a position in the model's memory
_SUFFIXES = (".pt", ".wav")  # PersonaPlex's own page sends the names of files


@dataclass(frozen=True)
class Persona:
    """What of a client's wishes is followed, and in words what is not."""

    role: str | None
    voice: str | None
    left_out: str | None = None


def choose_persona(model: ModelFacts, role: str | None, voice: str | None) -> Persona:
    """What the model can follow of a role and the name of a voice. The name never becomes a path.

    Raises:
        InputError: a role that is too long.
    """
    if role is not None and len(role) > _LONGEST_ROLE:
        raise InputError(f"a role of {len(role)} characters; accepted: at most {_LONGEST_ROLE}")
    if not model.takes_roles:
        wished = role is not None or voice is not None
        reason = f"{model.name} was not trained to take a role or a voice: they have no effect"
        return Persona(None, None, reason if wished else None)
    known = _known_voice(model, voice)
    if known is None and voice is not None:
        return Persona(role, None, f"no voice {voice[:40]!r}; there are: {', '.join(model.voices) or 'none'}")
    return Persona(role, known)


def _known_voice(model: ModelFacts, voice: str | None) -> str | None:
    if voice is None or voice in model.voices:
        return voice
    stems = (voice.removesuffix(suffix) for suffix in _SUFFIXES if voice.endswith(suffix))
    return next((stem for stem in stems if stem in model.voices), None)
