"""Moshi plugin for LiveKit Agents: a full-duplex speech model in the worker's own process.

The code is `moshi_agent_adapters.livekit`.
"""

from __future__ import annotations

import os

from livekit.agents import Plugin
from livekit.plugins.moshi.log import logger
from livekit.plugins.moshi.version import __version__

from moshi_agent_adapters.livekit import (
    SESSION_OPTIONS,
    STT,
    MoshiModel,
    MoshiServer,
    MoshiSession,
    RealtimeModel,
)

__all__ = [
    "SESSION_OPTIONS",
    "STT",
    "MoshiModel",
    "MoshiServer",
    "MoshiSession",
    "RealtimeModel",
    "__version__",
]


class MoshiPlugin(Plugin):
    """Tells LiveKit that the plugin is there."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__ or __name__, logger)

    def download_files(self) -> None:
        """Fetches the checkpoint that MOSHI_MODEL names. The built-in `tiny` needs no download."""
        from moshi_agent.checkpoint import download_checkpoint  # loads torch

        download_checkpoint(os.environ.get("MOSHI_MODEL", "tiny"))


Plugin.register_plugin(MoshiPlugin())
