"""The plugin's logger, which LiveKit's users set up by name."""

import logging

logger = logging.getLogger("livekit.plugins.moshi")
