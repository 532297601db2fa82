"""Moshi in LiveKit Agents, in the worker's own process: one engine, many calls.

    model.py        MoshiModel, the DuplexModel
    realtime.py     RealtimeModel, the same with `AgentSession.say`
    session.py      MoshiSession, one conversation
    bot_speech.py   what the bot says: frames, and the pieces of text that belong to them
    user_speech.py  what the user says: interim and final transcripts
    turn_gate.py    which audio is speech
    delegation.py   a backend LLM that writes what Moshi speaks, and calls tools
    stt.py          STT, speech recognition for a cascade
    translation.py  Translator, Hibiki in LiveKit's beta of translation; not imported here
    engine_call.py  a session of the engine, from its beginning to its end
    frames.py       LiveKit's audio frames as the engine takes them
    server.py       MoshiServer, a worker with one engine

`livekit.plugins.moshi` gives these names where LiveKit's users look for them. Tested with livekit-agents
1.8.3 and 1.8.9.
"""

from moshi_agent_adapters.livekit.model import SESSION_OPTIONS, MoshiModel
from moshi_agent_adapters.livekit.realtime import RealtimeModel
from moshi_agent_adapters.livekit.server import MoshiServer
from moshi_agent_adapters.livekit.session import MoshiSession
from moshi_agent_adapters.livekit.stt import STT

__all__ = ["SESSION_OPTIONS", "STT", "MoshiModel", "MoshiServer", "MoshiSession", "RealtimeModel"]
