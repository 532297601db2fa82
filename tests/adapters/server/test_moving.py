"""A call that goes on in another server: its client comes back for it, and everything is said once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

from moshi_agent import Engine
from moshi_agent.audio.framing import Samples
from moshi_agent.engine.snapshot import unpack_snapshot
from moshi_agent_adapters.talk.connection import CallRefused, Ears, Moved, ServerAddress, converse
from tests.adapters.server.server_calls import Running, running
from tests.adapters.server.server_clients import paced, question
from tests.adapters.server.shelf import Shelf

LARGEST_GAP_S = 0.3


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Running, Running]]:
    shelf, servers = Shelf(), []
    with ExitStack() as stack:
        for _ in range(2):
            engine = Engine.load("tiny", device="cpu", capacity=1, admit_by_time=False, shared=False)
            servers.append(stack.enter_context(running(engine)))
            servers[-1].server.handover = shelf
        yield servers[0], servers[1]


def ignore(_: object) -> None: ...


class Caller:
    """Asks a question in real time, and keeps when it hears what."""

    def __init__(self) -> None:
        self.text, self.heard_at = "", []
        self.microphone: asyncio.Queue[Samples | None] = asyncio.Queue()
        self.ears = Ears(on_audio=lambda _: self.heard_at.append(time.monotonic()), on_text=self._read)

    def _read(self, text: str) -> None:
        self.text += text

    async def speak(self) -> None:
        async for chunk in paced(np.concatenate([np.zeros(12_000, np.float32), question("count to five")])):
            self.microphone.put_nowait(chunk)

    async def wait_for(self, words: str) -> None:
        async with asyncio.timeout(60):
            while words not in self.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
def test_a_call_goes_on_elsewhere_in_mid_sentence(
    servers: tuple[Running, Running], is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a large model leaves the model's cache behind."""
    (here, there), shelf = servers, servers[0].server.handover
    assert isinstance(shelf, Shelf)
    if is_large:
        monkeypatch.setattr("moshi_agent_adapters.server.server.MOST_BYTES", 1_000_000)
    here.server.is_moving.clear()

    async def talk() -> None:
        caller = Caller()
        speaking = asyncio.create_task(caller.speak())
        call = asyncio.create_task(converse(ServerAddress(here.http), caller.microphone, caller.ears))
        await caller.wait_for("One, two")
        here.server.is_moving.set()
        with pytest.raises(Moved) as moved:
            await call
        (kept,) = shelf.kept.values()
        assert unpack_snapshot(kept).row.is_compact == is_large
        resumed = converse(ServerAddress(there.http), caller.microphone, caller.ears, moved.value.resume)
        call = asyncio.create_task(resumed)
        await caller.wait_for("five.")
        await asyncio.sleep(1)
        assert caller.text.strip() == "One, two, three, four, five."
        gap_s = np.diff(caller.heard_at).max()
        print(f"largest gap between two pieces of sound: {1000 * gap_s:.0f} ms")
        assert gap_s < LARGEST_GAP_S
        with pytest.raises(CallRefused, match="no call to go on with"):  # it is given out once
            await converse(ServerAddress(here.http), caller.microphone, caller.ears, moved.value.resume)
        for task in (call, speaking):
            task.cancel()
        await asyncio.gather(call, speaking, return_exceptions=True)

    asyncio.run(asyncio.wait_for(talk(), 200))


@pytest.mark.real_time
def test_where_no_row_is_free_a_conversation_can_be_come_for_once_more(
    servers: tuple[Running, Running],
) -> None:
    here, there = servers

    async def talk() -> None:
        here.server.is_moving.clear()
        caller, other, begun = Caller(), Caller(), asyncio.Event()
        address = ServerAddress(there.http)
        taking = asyncio.create_task(
            converse(address, other.microphone, Ears(on_begun=begun.set, on_audio=ignore, on_text=ignore))
        )
        await asyncio.wait_for(begun.wait(), 60)
        moving = asyncio.create_task(converse(ServerAddress(here.http), caller.microphone, caller.ears))
        async with asyncio.timeout(30):
            while not caller.heard_at:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        here.server.is_moving.set()
        with pytest.raises(Moved) as moved:
            await moving
        with pytest.raises(CallRefused, match="row"):
            await converse(address, caller.microphone, caller.ears, moved.value.resume)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        async with asyncio.timeout(30):
            while there.live:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        again, ears = asyncio.Event(), Ears(on_begun=lambda: again.set(), on_audio=ignore, on_text=ignore)
        call = asyncio.create_task(converse(address, caller.microphone, ears, moved.value.resume))
        await asyncio.wait_for(again.wait(), 30)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(asyncio.wait_for(talk(), 120))
