"""What the program around an engine does to the state that all of a process share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from moshi_agent import AudioChunk, Conversation, SessionConfig, load_checkpoint
from moshi_agent.audio.framing import Frame
from moshi_agent.engine.prompt.prompt import PromptSource, compile_prompt
from tests.engine.stepped_core import FRAME_S, SteppedCore, taken

NOISE = np.random.default_rng(0).normal(0, 0.1, (3, 1920)).astype(np.float32)

PROGRAM = """
    import os, signal, sys
    import numpy as np
    from moshi_agent import Engine, EngineUnhealthy, SessionConfig

    def main():
        engine = Engine.load("tiny", capacity=1, admit_by_time=False, process={process}).start()
        session = engine.session(SessionConfig(live=False)).open()
        if not os.fork():
            signal.alarm(30)
            questions = [
                lambda: engine.session(SessionConfig(live=False)).open(),
                lambda: engine.open_session(SessionConfig()),
                lambda: engine.start(),
                lambda: engine.capacity(),
                lambda: engine.prompt(text="hello"),
                lambda: session.say("hello").result(),
            ]
            for ask in questions:
                try:
                    ask()
                except EngineUnhealthy as error:
                    assert "this is a fork of it" in str(error), error
                else:
                    raise AssertionError("answered in a fork")
            engine.metrics()
            session.close()
            engine.close()
            sys.exit(7)
        status = os.waitstatus_to_exitcode(os.wait()[1])
        session.finish()
        reasons = [getattr(event, "reason", None) for event in session]
        assert reasons[-1] == "finished", reasons
        left_open = engine.session(SessionConfig(live=False)).open()
        left_open.push(np.zeros(24000 * 60, np.float32))
        left_open.next_event()
        sys.exit(status)

    if __name__ == "__main__":
        main()
"""


def run_program(tmp_path_factory: pytest.TempPathFactory, text: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path_factory.mktemp("program") / "program.py"
    script.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "process", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["thread", "process"]
)
def test_a_fork_is_refused_at_once_and_the_program_may_exit_without_closing_its_engine(
    tmp_path_factory: pytest.TempPathFactory, process: bool
) -> None:
    done = run_program(tmp_path_factory, PROGRAM.format(process=process))
    assert done.returncode == 7, done.stderr
    assert "engine process lost" not in done.stderr  # the fork has not ended it
    assert process or not done.stderr


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Generator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def warnings_as_errors() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def what_is_said() -> tuple[list[Frame], list[Frame]]:
    """The first frames of a model loaded now, by itself and in an engine's step among others."""
    checkpoint = load_checkpoint("tiny", pack="auto")
    conversation = Conversation(checkpoint, seed=3)
    core = SteppedCore(checkpoint, capacity=2)
    prompt = compile_prompt(PromptSource("Hello.", NOISE[0]), checkpoint)
    configs = SessionConfig(seed=3, digital_silence=False), SessionConfig(seed=4, prompt=prompt)
    session, _other = [core.session(config) for config in configs]
    alone = [conversation.step(pcm).audio for pcm in NOISE]
    for pcm in NOISE:
        session.push(pcm)
        core.wait(FRAME_S)
    return alone, [event.pcm for event in taken(session) if isinstance(event, AudioChunk)]


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[Frame], list[Frame]]:
    return what_is_said()


@pytest.mark.parametrize(
    "state",
    [
        default_dtype(torch.bfloat16),
        default_dtype(torch.float64),
        torch.autocast("cpu", torch.bfloat16),
        deterministic(),
        warnings_as_errors(),
        one_thread(),
    ],
    ids=["bfloat16", "float64", "autocast", "deterministic", "warnings", "one thread"],
)
def test_what_a_program_sets_for_all_of_pytorch_changes_no_sample(
    state: AbstractContextManager[object], undisturbed: tuple[list[Frame], list[Frame]]
) -> None:
    with state:
        alone, beside = what_is_said()
    assert len(alone) == len(beside) == len(NOISE)
    np.testing.assert_array_equal(alone, undisturbed[0])
    np.testing.assert_array_equal(beside, undisturbed[1])
