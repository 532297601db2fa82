"""`moshi-agent serve --ray`: begins Ray where none runs, and serves until it is told to stop."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

import click
import ray
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from moshi_agent import ConfigError
from moshi_agent.plural import counted
from moshi_agent_adapters.ray.application import BELIEVED, NAME, application, check
from moshi_agent_adapters.ray.config import Replicas
from moshi_agent_adapters.server.command import Serve
from moshi_agent_adapters.server.listening import listen
from moshi_agent_adapters.server.log_format import set_up_log

_log = logging.getLogger("moshi_agent.ray")
_APP = "moshi-agent"
_POLL_S = 0.2
# Of Ray where it runs here for us alone; what is set already stays. `docs/scaling.md` tells clusters of them.
_SETTINGS = {
    "RAY_worker_niceness": "0",  # else 15: whatever else this machine does would come before speech
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",  # else 10: callers would wait for replicas
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # else 5: a busy machine would begin again and again
    BELIEVED: "",  # else this machine's: whoever calls from here could give any address
}


def serve(asked: Serve, replicas: Replicas) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.

    Connects to the cluster that RAY_ADDRESS names; without one, Ray runs on this machine for as long.

    Raises:
        ConfigError: the settings do not go together, the port is taken, or no replica begins.
    """
    _set_environment(asked)
    _check(asked)
    set_up_log(asked.log_level, asked.log_format)
    port = _free_port(asked)
    _begin_ray(asked.log_level)
    try:
        http = HTTPOptions(
            host=asked.server.host,
            port=port,
            ssl_certfile=None if asked.ssl_cert is None else str(asked.ssl_cert),
            ssl_keyfile=None if asked.ssl_key is None else str(asked.ssl_key),
        )
        ray_serve.start(http_options=http, proxy_location="EveryNode")
        _run(application(asked, replicas))
        _announce(asked, replicas, port)
        _wait_for_end(asked.server.drain_s)
    finally:
        ray.shutdown()


def _set_environment(asked: Serve) -> None:
    """Sets variables for a Ray of our own, which reads them when it begins."""
    if "RAY_ADDRESS" in os.environ:
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if asked.proxies is not None:
        os.environ[BELIEVED] = asked.proxies


def _begin_ray(log_level: str) -> None:
    """Connects to the cluster, or begins one of this machine alone."""
    options = {"log_to_driver": log_level in ("debug", "info"), "logging_level": log_level.upper()}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"include_dashboard": False}
    ray.init(**options)


def _check(asked: Serve) -> None:
    """Raises ConfigError for what the replicas cannot do."""
    check(asked)
    if asked.ssl_self_signed:
        raise ConfigError("a certificate that is made for each process; accepted: --ssl-cert and --ssl-key")
    if (asked.ssl_cert is None) != (asked.ssl_key is None):
        raise ConfigError("a certificate and its key go together; accepted: both, or neither")


def _free_port(asked: Serve) -> int:
    """The port to listen on. Raises ConfigError where it is taken: Serve would say so late, and at length."""
    sockets = listen(asked.server.host, asked.server.port)
    port = int(sockets[0].getsockname()[1])
    for one in sockets:
        one.close()
    return port


def _run(app: Application) -> None:
    """Runs the application. Raises ConfigError, with the reason of the last replica, where none begins."""
    try:
        ray_serve.run(app, name=_APP, route_prefix="/")
    except RuntimeError as error:
        status = ray_serve.status().applications[_APP]
        if status.status != ApplicationStatus.DEPLOY_FAILED or NAME not in status.deployments:
            raise
        # It ends with a traceback, and that with the error.
        reason = status.deployments[NAME].message.strip().rpartition("\n")[2]
        raise ConfigError(f"no replica begins: {reason}") from error


def _announce(asked: Serve, replicas: Replicas, port: int) -> None:
    scheme = "http" if asked.ssl_cert is None else "https"
    number = str(replicas.fewest) if replicas.is_fixed else f"{replicas.fewest} to {replicas.most}"
    click.echo(
        f"{asked.server.model_name} is at {scheme}://{asked.server.host}:{port}, on {number} replicas on Ray "
        f"for {counted(asked.capacity, 'call')} each."
    )


def _wait_for_end(drain_s: float) -> None:
    """Waits for a signal, then for the replicas to have drained, or for a second signal."""
    signals, stopped, killed = (signal.SIGTERM, signal.SIGINT), threading.Event(), threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        (killed if stopped.is_set() else stopped).set()

    before = [signal.signal(number, stop) for number in signals]
    try:
        stopped.wait()
        _log.warning("shutting down: calls may go on for %g s", drain_s)
        ray_serve.delete(_APP, _blocking=False)
        while not killed.is_set() and _is_there():
            time.sleep(_POLL_S)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _is_there() -> bool:
    """Whether the application has replicas still."""
    with suppress(KeyError):
        return ray_serve.status().applications[_APP].status != ApplicationStatus.NOT_STARTED
    return False
