"""The server as an application of Ray Serve."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import os
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from moshi_agent import ConfigError
from moshi_agent.cli.serve import asked_for
from moshi_agent.cli.serve import serve as command
from moshi_agent_adapters.ray.arguments import command_line
from moshi_agent_adapters.ray.config import Replicas
from moshi_agent_adapters.ray.ending import LAST_WORDS_S
from moshi_agent_adapters.ray.haproxy import check_haproxy
from moshi_agent_adapters.ray.placement import Emptiest
from moshi_agent_adapters.ray.replica import Replica
from moshi_agent_adapters.server.command import Serve

BELIEVED = "FORWARDED_ALLOW_IPS"  # whose X-Forwarded-For Serve's proxy believes: uvicorn's variable
NAME = "moshi"  # of the deployment, by which config files know it
_BESIDE_CALLS = 100  # requests of one replica, beside its calls: they are answered or refused at once


def app(arguments: dict[str, Any]) -> Application:
    """Builds the application for a config file of Ray Serve, or for `serve run moshi_agent_adapters.ray:app`.

    Args:
        arguments: the options of `moshi-agent serve` without dashes: `{"model": "tiny", "capacity": 8}`. An
            option without a value is `true`, one that is given several times has a list.

    Raises:
        click.ClickException: an option that there is not, or a value that it does not take.
        ConfigError: settings that do not go together.
    """
    context = command.make_context("app", ["--ray", *command_line(arguments)])
    return application(*asked_for(context))


def application(asked: Serve, replicas: Replicas) -> Application:
    """Makes an application that serves what was asked for with so many replicas. Each takes one GPU, or none.

    Raises:
        ConfigError: as `check`.
    """
    check(asked)
    options: dict[str, Any] = {"num_replicas": replicas.fewest}
    if not replicas.is_fixed:
        policy = AutoscalingPolicy(
            policy_function="moshi_agent_adapters.ray.scaling:LiveCalls",
            policy_kwargs={"target_load": replicas.target_load},
        )
        # Without `initial_replicas`: another version begins with as many as there are.
        scaling = AutoscalingConfig(
            min_replicas=replicas.fewest,
            max_replicas=replicas.most,
            upscale_delay_s=replicas.scale_up_s,
            downscale_delay_s=replicas.scale_down_s,
            policy=policy,
        )
        options = {"autoscaling_config": scaling}
    deployment = serve.deployment(
        Replica,
        name=NAME,
        ray_actor_options={"num_gpus": 1} if _wants_gpu(asked.device) else {"num_cpus": 0},
        max_ongoing_requests=asked.capacity + _BESIDE_CALLS,
        graceful_shutdown_timeout_s=asked.server.drain_s + LAST_WORDS_S,
        graceful_shutdown_wait_loop_s=0.5,
        request_router_config={"request_router_class": Emptiest},
        **options,
    )
    return deployment.bind(asked)


def check(asked: Serve) -> None:
    """Raises ConfigError for what no replica could do, and where Serve's proxy would cut or misread calls."""
    check_haproxy(os.environ, asked.server.drain_s)
    if asked.proxies is not None and os.environ.get(BELIEVED) != asked.proxies:
        raise ConfigError(
            f"--trust-proxy {asked.proxies} on a cluster whose own proxies would not know; accepted: "
            f"{BELIEVED}={asked.proxies} for all processes of Ray"
        )
    asked.server.check_words(asked.transcribe)


def _wants_gpu(device: str) -> bool:
    """Whether a replica computes on a GPU: as it is told, or else where the cluster has one."""
    return device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
