"""`moshi-agent serve --ray` as a process of its own, with the replicas that it begins on this machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.adapters.server.server_process import address_of

Replicas = dict[str, dict[str, Any]]  # what each says of itself, by its name
BEGIN_S = 240.0  # for Ray, on a machine that does other things, too
# As `serve deploy` does by way of the dashboard, which a Ray of the command's own has not.
_REDEPLOY = """
import json, sys
import ray
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

ray.init(address="auto", namespace="serve", log_to_driver=False)
_get_global_client().deploy_apps(ServeDeploySchema(**json.loads(sys.argv[1])))
"""


@dataclass(frozen=True)
class Cluster:
    """The command, as it runs."""

    process: subprocess.Popen[str]
    url: str
    begin_s: float  # it took, with one replica

    @property
    def websocket(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def patience_s(self) -> float:
        """For a replica to come or to go, on this machine as it is: it does so in half the time to begin."""
        return max(120.0, 8 * self.begin_s)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        with closing(http.client.HTTPConnection(self.url.partition("://")[2], timeout=20)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def replicas(self) -> Replicas:
        """What each replica says of itself, by its name."""
        return {one["replica"]: one for one in json.loads(self.get("/ready")[1])["replicas"]}

    def redeploy(self, number: int | None = None, **arguments: str | int | bool) -> None:
        """Gives Serve a config file's content.

        Args:
            number: of replicas, beside the options: a change of it alone is no other version.
            arguments: the options of the command. Others than before are another version.
        """
        app = {"name": "moshi-agent", "route_prefix": "/", "import_path": "moshi_agent_adapters.ray:app"}
        deployments = [] if number is None else [{"name": "moshi", "num_replicas": number}]
        config = {"applications": [app | {"args": arguments, "deployments": deployments}]}
        subprocess.run([sys.executable, "-c", _REDEPLOY, json.dumps(config)], check=True, timeout=BEGIN_S)

    async def wait_for(self, condition: Callable[[Replicas], bool]) -> None:
        """Waits until it holds for the replicas."""
        until, found = time.monotonic() + self.patience_s, Replicas()
        while True:
            with suppress(TimeoutError):  # while the only replica is replaced there is nobody to answer
                if condition(found := await asyncio.to_thread(self.replicas)):
                    return
            assert time.monotonic() < until, f"waited in vain: {found}"
            await asyncio.sleep(0.5)


@contextmanager
def serving_on_ray(*options: str, **environment: str) -> Iterator[Cluster]:
    """Begins to serve; gives the address that the command prints once it listens."""
    command = [sys.executable, "-m", "moshi_agent", "serve", "--ray", "--port", "0", "--overcommit"]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    with subprocess.Popen(
        [*command, "--calls-per-address", "32", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
    ) as process:
        begun_at = time.monotonic()
        try:
            url = address_of(process)
            yield Cluster(process, url, time.monotonic() - begun_at)
        finally:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)  # at once
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
