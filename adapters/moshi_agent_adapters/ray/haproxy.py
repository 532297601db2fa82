"""The mode of Ray Serve in which HAProxy takes the place of its own proxy, and cuts calls."""

from __future__ import annotations

from collections.abc import Mapping

from moshi_agent.errors import ConfigError

_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
_TIMES = {  # and what Serve takes where they are not set, in seconds
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": 120.0,  # after each change of the replicas, for all older calls
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 30.0,  # of a replica that is to go
}


def check_haproxy(environment: Mapping[str, str], drain_s: float) -> None:
    """Raises ConfigError where HAProxy would cut calls before their time to drain is over.

    Args:
        environment: variables of the processes of Ray.
        drain_s: how long a call may go on when its replica is to go.
    """
    if environment.get(_SWITCH) != "1":
        return
    short = [name for name, usual in _TIMES.items() if _seconds(environment, name, usual) < drain_s]
    if short:
        raise ConfigError(
            f"{_SWITCH}=1, where HAProxy cuts calls that have {drain_s:g} s to drain; accepted: "
            f"{' and '.join(short)} of as much, or Serve's own proxy"
        )


def _seconds(environment: Mapping[str, str], name: str, usual: float) -> float:
    try:
        return float(environment.get(name, usual))
    except ValueError as error:
        raise ConfigError(f"{name}={environment[name]!r}; accepted: seconds") from error
