"""Which names of models a recogniser answers to in OpenAI's protocols."""

from __future__ import annotations

from moshi_agent_adapters.protocols.call_protocol import ProtocolError

# What clients ask for by default.
_FOREIGN_MODELS = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-live-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-realtime-whisper",
)


def check_transcription_model(model: str | None, served: str) -> None:
    """Raises ProtocolError for a name that is neither the served model's nor one that clients always send."""
    if model is not None and model != served and not model.startswith(_FOREIGN_MODELS):
        raise ProtocolError(f"there is no model {model[:60]!r}; accepted: {served!r}", "model_not_found")
