"""A worker with one engine: whom it takes, what it tells LiveKit of its load, and what it refuses to be."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")

from livekit.agents import Agent, AgentSession, JobContext, JobExecutorType, JobRequest
from livekit.agents.job import JobAcceptArguments
from livekit.agents.testing import fake_job_context
from livekit.protocol import agent, models

from moshi_agent import ConfigError, Engine, EngineUnhealthy, SessionConfig
from moshi_agent_adapters.livekit import SESSION_OPTIONS, MoshiModel, MoshiServer, RealtimeModel
from moshi_agent_adapters.livekit.server import Entrypoint
from tests.adapters.livekit.livekit_calls import NAME, SUM, VOICE, WEEK, Call, Clerk, ScriptedLLM
from tests.checkpoint.hub_server import HubServer
from tests.recogniser_model import write_recogniser_checkpoint


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Two rows of `tiny`, of which nothing is shared."""
    with Engine.load("tiny", device="cpu", capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


class Offers:
    """Jobs offered to a server that runs without LiveKit's, and what has become of them."""

    def __init__(self, server: MoshiServer) -> None:
        self._answer = server._request_fnc  # what LiveKit asks  # pyright: ignore[reportPrivateUsage]
        self.accepted: list[str] = []
        self.rejected: list[tuple[str, bool]] = []

    async def offer(self, name: str) -> None:
        async def accept(arguments: JobAcceptArguments) -> None:
            self.accepted.append(name)
            await asyncio.sleep(0.1)  # until the job is assigned, and begins

        async def reject(terminate: bool) -> None:
            self.rejected.append((name, terminate))

        job = agent.Job(id=name, room=models.Room(name="room"))
        assert self._answer is not None
        await self._answer(JobRequest(job=job, on_accept=accept, on_reject=reject))


async def _nothing(_: JobContext) -> None:
    pass


async def _serve(server: MoshiServer, entrypoint: Entrypoint = _nothing) -> tuple[asyncio.Task[None], Offers]:
    started = asyncio.Event()
    server.once("worker_started", started.set)
    server.rtc_session(entrypoint)
    running = asyncio.create_task(server.run(devmode=True, unregistered=True))
    await asyncio.wait_for(started.wait(), 60)
    return running, Offers(server)


def test_jobs_that_come_at_once_cannot_all_have_the_last_row(engine: Engine) -> None:
    server = MoshiServer(lambda: engine)
    with pytest.raises(EngineUnhealthy, match="when the server runs"):
        _ = server.engine
    assert server.current_load() == 1.0

    async def main() -> Offers:
        running, offers = await _serve(server)
        assert server.engine is engine
        assert server.current_load() == 0.0
        async with engine.session():
            assert server.current_load() == 0.5
        await asyncio.gather(*[offers.offer(name) for name in ("one", "two", "three")])
        await offers.offer("four")  # those before have ended
        await server.aclose()
        await running
        return offers

    offers = asyncio.run(main())
    assert offers.accepted == ["one", "two", "four"]
    assert offers.rejected == [("three", False)]  # another worker may take it


@pytest.mark.slow
@pytest.mark.real_time
def test_four_jobs_in_threads_share_an_engine_in_a_process_of_its_own() -> None:
    """LiveKit's own way of running a job, as its console has it: no room, and sound of the test's own."""
    options = {"capacity": 4, "process": True, "admit_by_time": False, "shared": False}
    server = MoshiServer(lambda: Engine.load("tiny", device="cpu", **options))
    all_there, threads = threading.Event(), set[int]()
    said = {room: Future[list[str]]() for room in ("name", "sum", "week", "tool")}
    clerk = Clerk()

    async def talk(room: str) -> list[str]:
        backend = ScriptedLLM(("look_up", {"city": "Paris"}), VOICE[1]) if room == "tool" else None
        model = RealtimeModel(server.engine, backend=backend, session=SessionConfig(seed=1))
        call = Call(AgentSession(llm=model, user_away_timeout=None, **SESSION_OPTIONS))
        await call.session.start(clerk if room == "tool" else Agent(instructions=""))
        await call.until(all_there.is_set)
        if room == "tool":
            await call.session.generate_reply(instructions="Tell the weather of Paris.")
        else:
            call.ask({"name": NAME, "sum": SUM, "week": WEEK}[room][0])
        await call.hear(1)
        await call.session.aclose()
        return call.bot_said

    async def entrypoint(context: JobContext) -> None:
        threads.add(threading.get_ident())
        room = said[context.job.room.name]
        try:
            room.set_result(await talk(context.job.room.name))
        except BaseException as error:
            room.set_exception(error)
        context.shutdown()

    async def main() -> Offers:
        running, offers = await _serve(server, entrypoint)
        for room in said:
            await server.simulate_job(room, fake_job=True)
        while server.current_load() < 1.0:
            assert not any(answer.done() for answer in said.values())
            await asyncio.sleep(0.05)
        await offers.offer("fifth")
        all_there.set()
        await asyncio.gather(*map(asyncio.wrap_future, said.values()))
        await server.aclose()
        await running
        return offers

    offers = asyncio.run(main())
    answers = {room: answer.result() for room, answer in said.items()}
    assert answers == {"name": [NAME[1]], "sum": [SUM[1]], "week": [WEEK[1]], "tool": [VOICE[1]]}
    assert clerk.looked_up == ["Paris"]
    assert len(threads) == 4 and threading.get_ident() not in threads
    assert not offers.accepted and offers.rejected == [("fifth", False)]


def test_a_server_whose_engine_has_ended_takes_nobody(engine: Engine) -> None:
    server = MoshiServer(lambda: engine)

    async def main() -> Offers:
        running, offers = await _serve(server)
        engine.drain(0.0)
        await asyncio.sleep(0.2)
        await offers.offer("late")
        await server.aclose()
        await running
        return offers

    offers = asyncio.run(main())
    assert not offers.accepted and offers.rejected == [("late", False)]


def test_a_process_for_each_call_is_refused_before_the_model_is_loaded(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="THREAD"):
        MoshiServer(lambda: engine, job_executor_type=JobExecutorType.PROCESS)

    async def call() -> None:
        with fake_job_context() as job:
            job.proc._executor_type = JobExecutorType.PROCESS  # pyright: ignore[reportPrivateUsage]
            try:
                MoshiModel(engine)
            finally:
                job._tempdir.cleanup()  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(ConfigError, match="would load the model again"):
        asyncio.run(call())


def test_the_plugin_is_found_by_livekit_and_cheap_to_import() -> None:
    """As `python -m livekit.agents download-files` does: it imports every plugin that is installed."""
    code = (
        "import sys\n"
        "from livekit.agents.__main__ import _discover_and_import_plugins\n"
        "print('livekit.plugins.moshi' in _discover_and_import_plugins())\n"
        "from livekit.agents import Plugin\n"
        "plugin, = [p for p in Plugin.registered_plugins if p.package == 'livekit.plugins.moshi']\n"
        "print('torch' in sys.modules, plugin.title, plugin.version, plugin.logger.name)\n"
        "plugin.download_files()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    from moshi_agent import __version__

    found, facts = done.stdout.split("\n")[:2]
    assert found == "True"
    assert facts == f"False livekit.plugins.moshi {__version__} livekit.plugins.moshi"


@pytest.mark.slow
def test_livekits_own_command_fetches_the_checkpoint(tmp_path: Path) -> None:
    folder = write_recogniser_checkpoint(tmp_path / "model")
    with HubServer({"someone/model": folder}) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "MOSHI_MODEL": "someone/model",
        }
        done = subprocess.run(
            [sys.executable, "-m", "livekit.agents", "download-files"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        hub.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    fetched = {path.name: path.read_bytes() for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert fetched == {path.name: path.read_bytes() for path in folder.iterdir()}
