"""Roles and voices that callers of a server wish for."""

from __future__ import annotations

import asyncio
import logging

import pytest

pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.sync.client import connect

from moshi_agent import ConfigError, Engine, InputError
from moshi_agent_adapters.protocols.call_protocol import Wanted
from moshi_agent_adapters.server import ServerConfig
from moshi_agent_adapters.server.server import Server
from moshi_agent_adapters.server.web_calls import WebCalls
from moshi_agent_adapters.talk.connection import with_wishes
from moshi_agent_adapters.webrtc import Connections
from tests.adapters.server.server_calls import running, wait_for


def test_wishes_go_before_what_the_server_would_choose(personaplex: Engine) -> None:
    server = Server(personaplex, ServerConfig(voice="NATM1", role="A cat.", greet=True))
    usual = server.session_config(Wanted())
    assert (usual.voice, usual.role, usual.greet) == ("NATM1", "A cat.", False)
    wished = server.session_config(Wanted(voice="NATF0.pt", role="A dog.", seed=3))
    assert (wished.voice, wished.role, wished.seed) == ("NATF0", "A dog.", 3)


def test_what_cannot_be_is_left_out_and_logged_once(
    personaplex: Engine, four_rows: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    for engine, reason in ((personaplex, "no voice 'marin'"), (four_rows, "was not trained to take")):
        caplog.clear()
        server = Server(engine, ServerConfig())
        with caplog.at_level(logging.WARNING, "moshi_agent.server"):
            for _ in range(3):
                assert server.session_config(Wanted(voice="marin")).voice is None
        assert [reason in record.getMessage() for record in caplog.records] == [True]


def test_a_server_is_given_no_role_that_its_model_does_not_take(
    personaplex: Engine, four_rows: Engine
) -> None:
    with pytest.raises(ConfigError, match="tiny was not trained"):
        Server(four_rows, ServerConfig(role="A cat."))
    with pytest.raises(ConfigError, match="no voice 'NATF9'; there are: NATF0, NATM1"):
        Server(personaplex, ServerConfig(voice="NATF9"))


def test_the_page_learns_what_it_can_choose(personaplex: Engine) -> None:
    calls = WebCalls(Server(personaplex, ServerConfig(model_name="mine")))
    options = {"greet": False, "role": True, "voices": ["NATF0", "NATM1"]}
    assert (calls.info()["model"], calls.info()["options"]) == ("mine", options)
    assert Connections(personaplex).info()["options"] == options
    for connections in (calls, Connections(personaplex)):
        config = asyncio.run(connections.session_config({"voice": "NATF0", "role": "A cat.", "seed": 3}))
        assert (config.voice, config.role, config.seed) == ("NATF0", "A cat.", 3)
    with pytest.raises(InputError, match="no voice 'NATF9'"):
        asyncio.run(Connections(personaplex).session_config({"voice": "NATF9"}))
    with pytest.raises(ConfigError, match="accepted: either"):
        asyncio.run(calls.session_config({"role": "A cat.", "greet": True}))


@pytest.mark.real_time
def test_the_calls_of_personaplexs_own_page_are_held(personaplex: Engine) -> None:
    # The server closes its engine when it ends: this one is its own, in a process as served.
    source = personaplex.config.source
    engine = Engine.load(source, capacity=2, admit_by_time=False, shared=False, process=True)
    with running(engine) as server:
        address = with_wishes(f"{server.websocket}/api/chat?seed=1", "You are a cat.", "NATF0.pt")
        assert address.endswith("/api/chat?seed=1&text_prompt=You+are+a+cat.&voice_prompt=NATF0.pt")
        # A name that is a path is the name of no voice: the call is held in the voice that comes by itself.
        outside = with_wishes(f"{server.websocket}/api/chat", None, "../../etc/passwd")
        for url in (address, address, outside):
            with connect(url) as websocket:
                assert websocket.recv(timeout=20) == b"\x00"
                assert server.live == 1
            wait_for(lambda: server.live == 0)
        assert engine.metrics().healthy
