"""Shorter jitter buffers for WebRTC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moshi_agent.errors import ConfigError

if TYPE_CHECKING:
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection


def use_short_jitter_buffers(connection: SmallWebRTCConnection, packets: int = 0) -> bool:
    """Makes a connection hold back fewer packets of 20 ms before Moshi hears them; aiortc holds back four.

    A packet then waits only where one before it is missing, and never for more than three others or as many
    as are held back. aiortc itself has no setting for it: after a lost packet it holds back fourteen for the
    rest of the call. This uses private parts of aiortc, and changes nothing, with a warning, where they are
    not as expected (tested with aiortc 1.16.0, pipecat-ai 1.14.0).

    Call it for each connection before its audio flows: where `bot` gets its `runner_args.webrtc_connection`,
    and again in a handler of `on_client_connected`, if clients may begin a connection anew.

    Args:
        connection: with an offer, as Pipecat's runner hands it over.
        packets: how many to hold back though nothing is missing, 0 to 8.

    Returns:
        Whether the delay is now what was asked for.

    Raises:
        ConfigError: another number of packets.
    """
    from moshi_agent_adapters.webrtc.packet_order import set_prefetch, warn_once

    if not 0 <= packets <= 8:
        raise ConfigError(f"packets={packets}; accepted: 0 to 8")
    transceivers = getattr(getattr(connection, "pc", None), "getTransceivers", list)()
    receivers = [transceiver.receiver for transceiver in transceivers if transceiver.kind == "audio"]
    if not receivers:
        warn_once("no audio of Pipecat's connection can be reached, or it has no offer yet; its delay stays")
    return bool(receivers) and all([set_prefetch(receiver, packets) for receiver in receivers])
