"""Who calls is who a trusted proxy says, on Ray as on one server."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.sync.client import ClientConnection, connect

from moshi_agent_adapters.protocols.kyutai import Kind
from tests.adapters.ray.ray_process import Cluster, serving_on_ray
from tests.adapters.server.server_clients import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.load, pytest.mark.timeout(300)]
ONE_CALL = ("--calls-per-address", "1", "--capacity", "2")


def call(cluster: Cluster, forwarded_for: str) -> ClientConnection:
    headers = {"X-Forwarded-For": forwarded_for}
    address = f"{cluster.websocket}/api/chat"
    return connect(address, compression=None, open_timeout=PATIENCE_S, additional_headers=headers)


@pytest.mark.parametrize(("options", "is_believed"), [((), False), (("--trust-proxy", "127.0.0.1"), True)])
def test_an_address_is_that_which_a_trusted_proxy_names(options: tuple[str, ...], is_believed: bool) -> None:
    with (
        serving_on_ray("--host", "127.0.0.1", *ONE_CALL, *options) as cluster,
        call(cluster, "192.0.2.1") as first,
        call(cluster, "192.0.2.2") as second,
    ):
        taken = Kind.HANDSHAKE.message()
        assert first.recv(PATIENCE_S) == taken
        assert (second.recv(PATIENCE_S) == taken) is is_believed
