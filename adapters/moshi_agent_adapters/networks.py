"""Whom an address belongs to."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """Whom an address belongs to: itself, and of IPv6 its /64, which is what one customer has."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # of a socket without one, or a proxy's name for it
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), 64), strict=False))
