"""The files of `deploy/` as far as they can be looked at without a daemon or a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("starlette", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent import Engine
from moshi_agent.cli.serve import serve as command
from moshi_agent.engine.metrics.metrics import Metrics
from moshi_agent.engine.metrics.prometheus import EngineCollector
from moshi_agent_adapters.ray.arguments import command_line
from moshi_agent_adapters.server import ServerConfig
from tests.adapters.server.server_calls import running

DEPLOY = Path(__file__).parents[1] / "deploy"


class _Reset(yaml.SafeLoader):
    """Knows `!reset`, which compose has beside YAML."""


_Reset.add_constructor("!reset", lambda loader, node: None)


def _yaml(name: str) -> list[Any]:
    return list(yaml.load_all((DEPLOY / name).read_text(), _Reset))


def _options(words: list[str]) -> dict[str, Any]:
    """What `moshi-agent serve` reads in its options. Fails for those that it does not have."""
    return command.make_context("serve", words).params


def _without_token_file(arguments: dict[str, Any]) -> dict[str, Any]:
    """There is none on this machine."""
    return {name: value for name, value in arguments.items() if name != "token-file"}


def test_every_yaml_file_can_be_read() -> None:
    files = [path.relative_to(DEPLOY) for path in DEPLOY.rglob("*.yaml")]
    assert len(files) >= 6
    for file in files:
        assert all(_yaml(str(file)))


def test_composes_server_takes_its_options_and_stops_after_its_calls() -> None:
    services = _yaml("compose.yaml")[0]["services"]
    assert services.keys() == {"moshi", "turn", "prometheus", "grafana"}
    server = services["moshi"]
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in server["command"]]
    assert words[0] == "serve"
    options = _options(words[1:])
    assert float(server["stop_grace_period"].removesuffix("s")) > options["drain_s"]
    for file in ("grafana/provisioning", "grafana/moshi-agent.json"):
        assert (DEPLOY / file).exists()
    assert set(_yaml("compose.cpu.yaml")[0]["services"]) <= set(services)


def test_the_unit_runs_the_command_and_waits_for_its_calls() -> None:
    unit = (DEPLOY / "moshi-agent.service").read_text()
    fields = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    program, name, *words = shlex.split(fields["ExecStart"])
    assert program.endswith("/moshi-agent") and name == "serve"
    assert float(fields["TimeoutStopSec"]) > _options(words)["drain_s"]


def test_images_are_built_of_files_that_are_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.M):
        assert all((DEPLOY.parent / source).exists() for source in sources.split())
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    for extras in re.findall(r'"\.\[([\w,]+)\]"', text):
        assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(","))
    assert _options(json.loads(re.findall(r"^CMD (\[.*\])$", text, re.M)[0])[1:])


def test_an_image_asks_for_health_with_the_servers_token() -> None:
    """The command of the file itself, which runs in the container with its environment."""
    text = (DEPLOY / "Dockerfile").read_text()
    _, option, program = json.loads(re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.M)[0])
    tokens = ServerConfig(tokens=("a long secret",))
    with Engine.load("tiny", capacity=1, shared=False) as engine, running(engine, tokens) as server:
        asks = [sys.executable, option, program.replace("8998", str(server.port))]
        known = os.environ | {"MOSHI_AGENT_TOKEN": "a long secret"}
        assert subprocess.run(asks, env=known, timeout=60).returncode == 0
        told = subprocess.run(asks, env=os.environ, timeout=60, stderr=subprocess.PIPE, text=True)
        assert told.returncode and "401" in told.stderr


def test_each_image_can_compile_and_its_user_owns_the_folder_of_the_models() -> None:
    """Without gcc a step on the CPU is slower, and Triton has no launchers. KubeRay runs wget."""
    base, *targets = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[1:]
    assert all(target.startswith("base AS ") for target in targets) and len(targets) == 2
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends ([\w -]+?) &&", base)
    assert {"gcc", "libc6-dev", "wget"} <= set(packages.split())
    (owned,) = re.findall(r"install -d -o moshi -g moshi (.*)$", base, re.M)
    (volume,) = _yaml("compose.yaml")[0]["services"]["moshi"]["volumes"]
    assert volume.partition(":")[2] in owned.split()


@pytest.mark.parametrize("file", ["serve.yaml", "kuberay.yaml"])
def test_ray_serves_config_takes_the_options(file: str) -> None:
    found = _yaml(file)[0]
    config = yaml.safe_load(found["spec"]["serveConfigV2"]) if "spec" in found else found
    (application,) = config["applications"]
    assert application["import_path"] == "moshi_agent_adapters.ray:app"
    options = _options(["--ray", *command_line(_without_token_file(application["args"]))])
    assert options["on_ray"] and options["replicas"][1] > 1
    if "spec" in found:
        pod = found["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
        ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
        assert ports["serve"] == config["http_options"]["port"], "where KubeRay asks for its health"
        assert pod["terminationGracePeriodSeconds"] > options["drain_s"]


def test_serve_itself_takes_the_config() -> None:
    schema = pytest.importorskip(
        "ray.serve.schema", reason="needs the extra `ray`: pip install moshi-agent[ray]"
    )
    for config in (_yaml("serve.yaml")[0], yaml.safe_load(_yaml("kuberay.yaml")[0]["spec"]["serveConfigV2"])):
        assert schema.ServeDeploySchema.model_validate(config).applications[0].name == "moshi-agent"


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    known: set[str] = set()
    for metric in EngineCollector(Metrics().snapshot).collect():
        suffixes = {"histogram": ("_bucket",), "counter": ("_total",)}.get(metric.type, ("",))
        known |= {metric.name + suffix for suffix in suffixes}
    panels = json.loads((DEPLOY / "grafana" / "moshi-agent.json").read_text())["panels"]
    shown = {
        name
        for panel in panels
        for one in panel["targets"]
        for name in re.findall(r"moshi_agent_\w+", one["expr"])
    }
    assert shown and shown <= known


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "tiny", "capacity": 8}, ["--model", "tiny", "--capacity", "8"]),
        ({"drain_seconds": 60}, ["--drain-seconds", "60"]),
        ({"greet": True, "roles": False, "say-commentary": "true"}, ["--greet", "--say-commentary"]),
        ({"token": ["a", "b"]}, ["--token", "a", "--token", "b"]),
    ],
)
def test_arguments_of_config_files_are_options(arguments: dict[str, Any], words: list[str]) -> None:
    assert command_line(arguments) == words
