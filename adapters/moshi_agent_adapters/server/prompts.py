"""Roles and voices: what clients may choose, and the prompts that it comes to."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path

from moshi_agent import Engine, InputError, Prompt
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import Samples

_LONGEST_ROLE = 4_000  # characters: each piece of the text costs a step before the conversation
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_MOST_KEPT = 16


class Prompts:
    """Compiles prompts and keeps the latest ones.

    Args:
        engine: whose model they are for.
        voices: a folder with a recording of each voice, named after it. Read now; a client's name for a voice
            is looked up among them and never becomes a path.
        roles: whether the model was trained to follow a text prompt. Without it a client's is not used: a
            model that knows none would say it.
    """

    def __init__(self, engine: Engine, voices: Path | None = None, roles: bool = False) -> None:
        self._engine = engine
        self._roles = roles
        self._voices: dict[str, Samples] = {}
        for file in sorted(voices.iterdir()) if voices else ():
            if file.suffix.lower() in _SUFFIXES:
                self._voices[file.stem] = read_audio(file)
        self._kept: OrderedDict[tuple[str | None, str | None], Prompt] = OrderedDict()

    @property
    def voices(self) -> list[str]:
        """Names that a client may ask for."""
        return list(self._voices)

    async def prompt(self, role: str | None, voice: str | None) -> Prompt | None:
        """The prompt of a role and a voice. What this server has not, it leaves out.

        Raises:
            InputError: a role that is too long, or that the model has no pieces for.
        """
        role = role if self._roles else None
        voice = None if voice is None else voice.rpartition(".")[0] or voice  # PersonaPlex's end in .pt
        voice = voice if voice in self._voices else None
        if role is None and voice is None:
            return None
        if role is not None and len(role) > _LONGEST_ROLE:
            raise InputError(f"a role of {len(role)} characters; accepted: at most {_LONGEST_ROLE}")
        if (role, voice) not in self._kept:
            self._kept[role, voice] = await asyncio.to_thread(self._compile, role, voice)
        self._kept.move_to_end((role, voice))
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return self._kept[role, voice]

    def _compile(self, role: str | None, voice: str | None) -> Prompt:
        text = None if role is None else f"<system> {role} <system>"  # as PersonaPlex was trained
        audio = None if voice is None else self._voices[voice]
        return self._engine.prompt(text=text, audio=audio)
