"""ICE restarts, which aiortc does not know: a caller whose network changed comes back on another path.

The caller's renewed offer has other ICE credentials. Our sockets and our own credentials stay; aioice learns
the caller's new addresses from the checks that come in, and goes over to them, once it knows the credentials
that those checks and its own carry.
"""

from __future__ import annotations

import re
from typing import Any

from aiortc import RTCPeerConnection

_UFRAG = re.compile(r"^a=ice-ufrag:(\S+)\s*$", re.MULTILINE)
_PASSWORD = re.compile(r"^a=ice-pwd:(\S+)\s*$", re.MULTILINE)


def follow_ice_restart(peer: RTCPeerConnection, offer_sdp: str) -> bool:
    """Takes over the credentials of a renewed offer. Returns whether they were others than before.

    Call it after `setRemoteDescription`. Uses private parts of aiortc; where they have changed, the path
    stays what it was, and a caller who is out of reach is gone.
    """
    ufrag, password = _UFRAG.search(offer_sdp), _PASSWORD.search(offer_sdp)
    if ufrag is None or password is None:
        return False
    changed = False
    for transport in _ice_connections(peer):
        if transport.remote_username not in (None, ufrag[1]):
            transport.remote_username, transport.remote_password = ufrag[1], password[1]
            changed = True
    return changed


def _ice_connections(peer: RTCPeerConnection) -> list[Any]:
    """The aioice connections in use. With bundled media it is one."""
    found: dict[int, Any] = {}
    for transceiver in peer.getTransceivers():
        ice = getattr(transceiver.receiver.transport, "transport", None)
        connection = getattr(ice, "_connection", None)
        if hasattr(connection, "remote_username"):
            found[id(connection)] = connection
    return list(found.values())
