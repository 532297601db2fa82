"""Many replicas of the server on Ray Serve: one for each GPU, behind one address.

    config.py        how many replicas there are to be
    application.py   the server as an application of Ray Serve, and `app` for its config files
    arguments.py     the options of the command as config files have them
    replica.py       one replica: today's ASGI application, and what Ray asks of it
    ending.py        how a replica that is to go ends its calls
    placement.py     to which replica a caller goes
    scaling.py       how many replicas the calls need
    address_counts.py  the calls of each address in all of them
    board.py         what the replicas know of each other, by their reports (report.py)
    cluster_health.py  /health, /ready and /metrics of all of them
    haproxy.py       the mode of Ray Serve in which calls would be cut
    command.py       `moshi-agent serve --ray`

Needs the extra `ray`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moshi_agent_adapters.ray.application import app, application
    from moshi_agent_adapters.ray.config import Replicas

__all__ = ["Replicas", "app", "application"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = "config" if name == "Replicas" else "application"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
