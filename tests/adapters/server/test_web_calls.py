"""The page's calls under the limits of a server: what can be chosen, and who is let in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("aiortc")
pytest.importorskip("starlette")

from moshi_agent import Engine, EngineFull, InputError, SessionConfig
from moshi_agent_adapters.server import ServerConfig
from moshi_agent_adapters.server.server import Server
from moshi_agent_adapters.server.web_calls import WebCalls
from moshi_agent_adapters.webrtc import ConnectionConfig, Connections, IceServer, OfferError, TooManyCalls
from tests.adapters.webrtc.webrtc_peer import Caller


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


def test_of_a_model_that_takes_none_roles_and_voices_are_left_out(engine: Engine) -> None:
    calls = WebCalls(Server(engine, ServerConfig(model_name="mine")))
    assert calls.info()["model"] == "mine"
    assert calls.info()["options"] == {"greet": True, "role": False, "voices": []}
    config = asyncio.run(calls.session_config({"voice": "calm", "role": "Hello", "seed": 3, "greet": True}))
    assert config.asking is not None, "the model hands over what it does not know"
    kept = replace(config, asking=None, references="as_trained")
    assert kept == SessionConfig(seed=3, greet=True, when_late="drop_oldest")


def test_ice_servers_serve_both_ends(engine: Engine) -> None:
    server = IceServer.parse("stun:stun.example.org")
    calls = WebCalls(Server(engine, ServerConfig(ice_servers=(server,))))
    assert calls.info()["ice_servers"] == [{"urls": ["stun:stun.example.org"]}]
    assert calls.config.ice_servers == (server,)


@pytest.mark.parametrize("options", [{"model": "x"}, {"seed": "1"}, {"greet": 1}, {"voice": None}])
def test_other_options_are_refused(engine: Engine, options: dict[str, object]) -> None:
    calls = WebCalls(Server(engine, ServerConfig()))
    with pytest.raises(InputError, match="accepted"):
        asyncio.run(calls.session_config(options))


@pytest.mark.real_time
def test_an_address_has_so_many_calls_and_no_more(engine: Engine) -> None:
    """Those on the way in are none yet: of two, the second that is connected is told so."""

    async def talk() -> None:
        server = Server(engine, ServerConfig(calls_per_address=1))
        calls, caller, second, third = WebCalls(server), Caller(), Caller(), Caller()
        with pytest.raises(OfferError):
            await calls.open("v=0", {}, "127.0.0.1")
        _, answer = await calls.open(await caller.offer(), {}, "127.0.0.1")
        _, late = await calls.open(await second.offer(), {}, "127.0.0.1")
        assert not server.addresses.live
        await caller.accept(answer)
        await caller.wait_for(lambda: caller.has("stats"))
        with pytest.raises(TooManyCalls):
            await calls.open(await third.offer(), {}, "127.0.0.1")
        await second.accept(late)
        await second.wait_for(lambda: second.has("error"))
        assert second.events[-1]["code"] == "too_many_calls" and server.addresses.live == 1
        await calls.close_all()
        await asyncio.sleep(0)
        assert not server.addresses.live and not len(calls)
        for one in (caller, second, third):
            await one.hang_up()

    asyncio.run(asyncio.wait_for(talk(), 60))


class Together:
    """Counts the calls of servers that are all here, at most one. Where it is slow, it answers nobody."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked = 0
        self.slow = False

    async def begin(self, network: str) -> str | None:
        await asyncio.sleep(0)
        return "one call at once" if self.calls else None

    async def enter(self, network: str) -> str | None:
        return await self.connect(network, moves=False)

    async def connect(self, network: str, moves: bool) -> str | None:
        self.asked += 1
        await asyncio.sleep(60 if self.slow else 0)
        if self.calls and not moves:
            return "one call at once"
        self.calls.append(network)
        return None

    def leave(self, network: str) -> None:
        self.calls.remove(network)


@pytest.mark.real_time
def test_of_two_servers_one_connects_a_call_of_an_address_that_may_have_one(engine: Engine) -> None:
    """Both have let it begin. Who hangs up while the others are asked holds no place."""

    async def talk() -> None:
        together, servers = Together(), [Server(engine, ServerConfig()) for _ in range(2)]
        for server in servers:
            server.addresses.everywhere = together
        here, there = (WebCalls(server) for server in servers)
        first, second, third = Caller(), Caller(), Caller()
        call_id, answer = await here.open(await first.offer(), {}, "127.0.0.1")
        _, late = await there.open(await second.offer(), {}, "127.0.0.1")
        await first.accept(answer)
        await first.wait_for(lambda: first.has("stats"))
        await second.accept(late)
        await second.wait_for(lambda: second.has("error"))
        assert second.events[-1]["code"] == "too_many_calls"
        assert [server.addresses.live for server in servers] == [1, 0] and len(together.calls) == 1
        await here.call(call_id).close()
        await asyncio.sleep(0)
        assert not servers[0].addresses.live and not together.calls
        together.slow, asked = True, together.asked
        call_id, answer = await here.open(await third.offer(), {}, "127.0.0.1")
        await third.accept(answer)
        await third.wait_for(lambda: together.asked > asked)
        assert servers[0].addresses.live == 1
        await here.call(call_id).close()
        assert not servers[0].addresses.live and not together.calls
        await there.close_all()
        for one in (first, second, third):
            await one.hang_up()

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_calls_that_never_connect_count_for_their_own_address_alone(engine: Engine) -> None:
    """Of two rows: two of one address keep a third of it out, and nobody else."""

    async def talk() -> None:
        callers = [Caller() for _ in range(4)]
        offers = [await caller.offer() for caller in callers]
        calls = Connections(engine, ConnectionConfig(connecting_per_address=3))
        for offer in offers[:2]:
            await calls.open(offer, {}, "192.0.2.7")
        with pytest.raises(EngineFull, match="2 calls on the way in"):
            await calls.open(offers[2], {}, "192.0.2.7")
        await calls.open(offers[2], {}, "2001:db8::8")
        few = Connections(engine, ConnectionConfig(connecting_per_address=1))
        await few.open(offers[2], {}, "192.0.2.7")
        with pytest.raises(TooManyCalls, match="1 call of one address on the way in"):
            await few.open(offers[3], {}, "192.0.2.7")
        for opened in (calls, few):
            await opened.close_all()
        for caller in callers:
            await caller.hang_up()

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_a_server_that_ends_takes_nobody(engine: Engine) -> None:
    server = Server(engine, ServerConfig())
    server.is_draining = True
    with pytest.raises(EngineFull, match="shutting down"):
        asyncio.run(WebCalls(server).open("v=0", {}))
