"""`moshi-agent serve --ray` as a process of its own, with the replicas that it begins on this machine."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.adapters.server.server_process import address_of

Replicas = dict[str, dict[str, Any]]  # what each says of itself, by its name
BEGIN_S = 240.0  # for Ray, on a machine that does other things, too


@dataclass(frozen=True)
class Cluster:
    """The command, as it runs."""

    process: subprocess.Popen[str]
    url: str

    @property
    def websocket(self) -> str:
        return self.url.replace("http", "ws", 1)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection(self.url.partition("://")[2], timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        status, body = response.status, response.read()
        connection.close()
        return status, body

    def replicas(self) -> Replicas:
        """What each replica says of itself, by its name."""
        return {one["replica"]: one for one in json.loads(self.get("/ready")[1])["replicas"]}

    def wait_for_replicas(
        self, condition: Callable[[dict[str, dict[str, Any]]], bool], seconds: float
    ) -> None:
        """Waits until it holds for the replicas."""
        until = time.monotonic() + seconds
        while not condition(found := self.replicas()):
            assert time.monotonic() < until, f"waited in vain: {found}"
            time.sleep(0.5)


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
        try:
            yield Cluster(process, address_of(process))
        finally:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)  # at once
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
