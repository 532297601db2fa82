"""What is decided about replicas, without Ray: their number, the options, HAProxy, the figures of all."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

pytest.importorskip("starlette", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from moshi_agent import ConfigError, ReferenceWanted
from moshi_agent.cli import main
from moshi_agent.cli.serve import asked_for
from moshi_agent.cli.serve import serve as command
from moshi_agent_adapters.ray.cluster_health import cluster_routes
from moshi_agent_adapters.ray.config import Replicas
from moshi_agent_adapters.ray.haproxy import check_haproxy
from moshi_agent_adapters.ray.report import Report, have_room
from moshi_agent_adapters.ray.scaling import LiveCalls


def wanted(live: list[int], places: int = 8, target: float = 0.5, silent: int = 0) -> int:
    """What the policy wants where so many calls are live on each replica, and some have not reported."""
    series = [[SimpleNamespace(value=0), SimpleNamespace(value=n)] for n in live]
    context: Any = SimpleNamespace(
        running_replicas=list(range(len(live) + silent)),
        target_num_replicas=len(live) + silent,
        raw_metrics={
            "live": {**dict(enumerate(series)), "a replica that is gone": [SimpleNamespace(value=100)]},
            "places": {n: [SimpleNamespace(value=places)] for n in range(len(live))},
        },
    )
    return LiveCalls(target)(context)[0]


def test_the_number_of_replicas_follows_the_calls() -> None:
    assert wanted([0]) == 1
    assert wanted([4]) == 1
    assert wanted([5]) == 2
    assert wanted([8, 8]) == 4
    assert wanted([2, 1, 0]) == 1
    assert wanted([8, 8], silent=1) == 3, "nothing changes before all have reported"
    for total in range(1, 60):
        assert wanted([total, 0]) == math.ceil(total / 4)


def _asked(*arguments: str) -> tuple[Any, Replicas | None]:
    return asked_for(command.make_context("serve", list(arguments)))


def test_options_say_how_many_replicas_and_without_ray_there_are_none() -> None:
    assert _asked()[1] is None and _asked()[0].server.drain_s == 30
    asked, replicas = _asked("--ray", "--longest-call", "900")
    assert replicas == Replicas() and replicas.is_fixed
    assert asked.server.drain_s == 900, "no call is cut short where a replica is to go"
    asked, replicas = _asked("--ray", "--replicas", "1-4", "--target-load", "0.5", "--drain-seconds", "60")
    assert replicas == Replicas(fewest=1, most=4, target_load=0.5)
    assert asked.server.drain_s == 60


@pytest.mark.parametrize("number", ["0", "3-2", "many", "1-", "-1"])
def test_numbers_of_replicas_that_cannot_be_are_refused(number: str) -> None:
    with pytest.raises(click.UsageError, match="accepted"):
        _asked("--ray", "--replicas", number)


@pytest.mark.parametrize(
    "option",
    [
        "--connections",
        "--connections-per-address",
        "--longest-head",
        "--request-seconds",
        "--frames-per-second",
        "--ping-seconds",
    ],
)
def test_limits_that_no_replica_could_keep_are_refused(option: str) -> None:
    _asked(option, "20")
    with pytest.raises(click.UsageError, match=f"{option} with --ray.*accepted"):
        _asked("--ray", option, "20")


LOOK_UP = ("--look-up", "tests.adapters.ray.test_replicas:find_nothing")


async def find_nothing(wanted: ReferenceWanted) -> str | None:
    del wanted
    return None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve's own modules
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (LOOK_UP, "(--transcribe)"),
        (("--backend-url", "http://localhost/v1", "--backend-model", "m"), "(--transcribe)"),
        (("--delegate", "turns"), "(--transcribe)"),
        (("--ssl-self-signed",), "--ssl-cert"),
        (("--trust-proxy", "192.0.2.9"), "FORWARDED_ALLOW_IPS=192.0.2.9"),
    ],
)
def test_what_no_replica_could_do_is_refused_before_ray_begins(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere.invalid:10001")
    ray = pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")
    told = CliRunner().invoke(main, ["serve", "--ray", "--port", "0", *arguments])
    assert told.exit_code == 1 and said in told.output and told.output.count("\n") == 1
    assert not ray.is_initialized()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve's own modules
def test_haproxy_that_cuts_calls_is_refused_by_the_command_and_the_config_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere.invalid:10001")
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    ray = pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")
    told = CliRunner().invoke(main, ["serve", "--ray", "--port", "0", "--drain-seconds", "100"])
    assert told.exit_code == 1 and "MIN_DRAINING_PERIOD_S of as much" in told.output
    assert not ray.is_initialized()
    from moshi_agent_adapters.ray import app

    with pytest.raises(ConfigError, match="MIN_DRAINING_PERIOD_S of as much"):
        app({"model": "tiny", "drain-seconds": 100})


def test_help_names_the_options() -> None:
    told = CliRunner().invoke(command, ["--help"]).output
    assert "--ray" in told and "N|MIN-MAX" in told


def test_haproxy_has_to_leave_calls_their_time() -> None:
    switch = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    check_haproxy({}, 3600)
    check_haproxy({"RAY_SERVE_ENABLE_HA_PROXY": "0"}, 3600)
    with pytest.raises(ConfigError, match=r"HARD_STOP_AFTER_S and RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING"):
        check_haproxy(switch, 3600)
    one = switch | {"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600"}
    with pytest.raises(ConfigError, match=r"3600 s to drain; accepted: RAY_SERVE_DIRECT_INGRESS"):
        check_haproxy(one, 3600)
    check_haproxy(one | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3600.0"}, 3600)
    with pytest.raises(ConfigError, match="soon"):
        check_haproxy(switch | {"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "soon"}, 3600)


def _report(name: str, **fields: Any) -> Report:
    registry = CollectorRegistry()
    Gauge("live", "Calls", registry=registry).set(fields.get("live", 0))
    Histogram("step_seconds", "Steps", registry=registry).observe(0.03)
    usual = {"live": 0, "free": 1, "is_healthy": True, "is_draining": False}
    return Report(replica=name, metrics=generate_latest(registry), **usual | fields)


def _get(path: str, *reports: Report) -> Any:
    async def known() -> tuple[Report, ...]:
        await asyncio.sleep(0)
        return reports

    return TestClient(Starlette(routes=cluster_routes(known))).get(path)


def test_health_is_that_of_all_replicas() -> None:
    well, ill = _report("a"), _report("b", is_healthy=False)
    assert _get("/health", well, ill).json() == {"status": "ok", "replicas": 2, "healthy": 1}
    assert _get("/health", ill).status_code == 503
    assert _get("/health").status_code == 503


def test_there_is_room_where_a_replica_has_some() -> None:
    full, going = _report("a", free=0, live=4), _report("b", free=3, is_draining=True)
    refusal = _get("/ready", full, going, _report("c", free=3, is_healthy=False))
    assert refusal.status_code == 503 and not refusal.json()["ready"]
    answer = _get("/ready", full, going, _report("d", free=2))
    assert answer.status_code == 200 and answer.json()["free"] == 2
    assert answer.json()["replicas"][0]["live"] == 4


def test_calls_move_where_others_that_stay_have_room_for_all_of_them() -> None:
    mine, other = _report("a", free=8, is_draining=True), _report("b", free=2)
    assert have_room([mine, other], "a", 2) and not have_room([mine, other], "a", 3)
    assert have_room([other, _report("c", free=1)], "a", 3)
    assert not have_room([mine], "a", 1), "nobody else is there"
    for going in (_report("b", free=8, is_draining=True), _report("b", free=8, is_healthy=False)):
        assert not have_room([mine, going], "a", 1)
    assert not have_room([_report("b", free=0)], "a", 0), "a call may be on its way in"


def test_metrics_have_the_name_of_the_replica() -> None:
    text = _get("/metrics", _report("a", live=3), _report("b", live=1)).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    live = {sample.labels["replica"]: sample.value for sample in families["live"].samples}
    assert live == {"a": 3, "b": 1}
    assert families["step_seconds"].type == "histogram"
    buckets = [s.labels for s in families["step_seconds"].samples if s.name.endswith("_bucket")]
    assert {one["replica"] for one in buckets} == {"a", "b"} and all("le" in one for one in buckets)
    assert text.count("# TYPE live gauge") == 1
