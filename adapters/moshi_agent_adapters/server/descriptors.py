"""File descriptors of this process, of which every connection takes one."""

from __future__ import annotations

import logging
import sys

_log = logging.getLogger("moshi_agent.server")
_OWN = 128  # for the engine, the log, the event loop
_PER_CALL = 8  # of WebRTC, whose transports have sockets of their own


def raise_descriptor_limit() -> int | None:
    """Raises the soft limit to the hard one. Returns what is in force, None where nothing limits it."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft  # some systems name a hard limit that they do not grant
    return None if hard == resource.RLIM_INFINITY else hard


def connections_that_fit(wanted: int, capacity: int, limit: int | None) -> int:
    """How many of the wanted connections the descriptors are enough for, with a warning if not for all."""
    if limit is None:
        return wanted
    most = max(1, limit - _OWN - _PER_CALL * capacity)
    if most < wanted:
        _log.warning(
            "%d file descriptors are enough for %d connections, not for %d; raise the limit (ulimit -n)",
            *(limit, most, wanted),
            extra={"descriptors": limit, "connections": most},
        )
    return min(wanted, most)
