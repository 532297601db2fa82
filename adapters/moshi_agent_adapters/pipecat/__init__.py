"""Moshi in a Pipecat pipeline: one service instead of speech-to-text, LLM and text-to-speech.

    service.py       MoshiLLMService, the pipeline component
    conversation.py  its way out: events of the engine as frames of the pipeline
    delegation.py    answers of a worker of Pipecat's, with its tools
    context.py       what it takes from a context
    settings.py      what of it can be changed while it runs
    stt.py           MoshiSTTService, speech recognition for a cascade
    translation.py   MoshiTranslator, for Hibiki
    frames.py        audio as the engine takes it
    whole_words.py   pieces of text joined into words
    playout.py       whole frames for the transport, and no more than it can play in time
    telephone.py     streams of telephone providers that bad messages do not end (needs Pipecat's `websocket`)
    metrics.py       figures that Pipecat has no words for
    transcript.py    what was said, in a file
    jitter.py        shorter jitter buffers for WebRTC, by choice

Tested with pipecat-ai 1.14.0.
"""

from moshi_agent_adapters.pipecat.delegation import ClientDelegation
from moshi_agent_adapters.pipecat.jitter import use_short_jitter_buffers
from moshi_agent_adapters.pipecat.metrics import MoshiMetricsData
from moshi_agent_adapters.pipecat.service import MoshiLLMService
from moshi_agent_adapters.pipecat.settings import MoshiLLMSettings
from moshi_agent_adapters.pipecat.stt import MoshiSTTService
from moshi_agent_adapters.pipecat.transcript import TranscriptFile
from moshi_agent_adapters.pipecat.translation import MoshiTranslator

__all__ = [
    "ClientDelegation",
    "MoshiLLMService",
    "MoshiLLMSettings",
    "MoshiMetricsData",
    "MoshiSTTService",
    "MoshiTranslator",
    "TranscriptFile",
    "use_short_jitter_buffers",
]
