"""Which of a caller's ICE candidates are taken.

To every candidate go some packets. Without bounds an offer makes the server send them to a thousand places,
or to machines and ports that only it can reach.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum

_MOST = 30  # addresses of one offer: a laptop with two networks, IPv6 and TURN has about a dozen
_FIELDS = 8  # foundation, component, transport, priority, address, port, "typ", type


class Reach(IntEnum):
    """From where an address can be reached: from fewer places, the higher."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


class Candidates:
    """Chooses among the candidates of one offer.

    Args:
        caller: the address from which the offer came. A caller may name addresses that are as near as its
            own: from this machine all, from a private network also private ones, from elsewhere public ones
            alone. "" is a caller whose address nobody has told, and may name all.
        allow_private: may name private and loopback addresses wherever the offer came from, or never; None
            goes by the caller.
    """

    def __init__(self, caller: str = "", allow_private: bool | None = None) -> None:
        if allow_private is None:
            reach = reach_of(caller)
            self._nearest = Reach.LOOPBACK if reach is None else reach
        else:
            self._nearest = Reach.LOOPBACK if allow_private else Reach.PUBLIC
        self._taken: set[tuple[str, str]] = set()

    def admits(self, line: str) -> bool:
        """Tells whether a line `a=candidate:...` is taken. One that comes twice counts once."""
        fields = line.partition(":")[2].split()
        if len(fields) < _FIELDS or fields[2].lower() != "udp" or not _is_port(fields[5]):
            return False
        reach, place = reach_of(fields[4]), (fields[4], fields[5])
        if reach is None or reach > self._nearest:
            return False
        if place not in self._taken and len(self._taken) >= _MOST:
            return False
        self._taken.add(place)
        return True


def reach_of(address: str) -> Reach | None:
    """From where an address can be reached. None for what is none of one machine: other names, multicast."""
    if address.endswith(".local"):  # multicast DNS, RFC 6762: browsers hide the addresses of their network so
        return Reach.PRIVATE
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_multicast or ip.is_unspecified or ip == ipaddress.ip_address("255.255.255.255"):
        return None
    if ip.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65_536
