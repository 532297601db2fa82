"""Hibiki as a translator; needs livekit-agents 1.8.9, in which LiveKit's own part of it is beta."""

from moshi_agent_adapters.livekit.translation import Translator, TranslatorSession

__all__ = ["Translator", "TranslatorSession"]
