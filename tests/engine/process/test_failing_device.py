"""An engine's process whose device fails for good: it makes room for another one."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moshi_agent import Ended, Engine, EngineConfig, EngineUnhealthy, SessionClosed, SessionConfig
from moshi_agent.engine.step.frame_step import FrameStep


@dataclass(frozen=True)
class FailingConfig(EngineConfig):
    """Makes the steps of the process that it is sent to fail while there is a file `fails_while`."""

    fails_while: Path = Path()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        launch = FrameStep.launch

        def failing(step: FrameStep, inputs: Any) -> Any:
            if self.fails_while.exists():
                raise RuntimeError("device lost")
            return launch(step, inputs)

        setattr(FrameStep, "launch", failing)  # noqa: B010


@pytest.mark.slow
def test_a_process_that_has_become_unhealthy_ends_and_another_one_serves(tmp_path: Path) -> None:
    flag = tmp_path / "failing"
    config = FailingConfig(device="cpu", capacity=1, admit_by_time=False, process=True, fails_while=flag)
    with Engine(config) as engine:
        ill = engine._backend.pid  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        flag.touch()
        for _ in range(3):
            with engine.session(SessionConfig(live=False)) as session:
                with suppress(SessionClosed):  # its first step may have failed already
                    session.push(np.zeros(1920, np.float32))
                *_, end = session
            assert isinstance(end, Ended) and "device lost" in (end.error or "")
        flag.unlink()
        deadline = time.monotonic() + 60
        while True:
            try:
                engine.start()
                session = engine.session(SessionConfig(live=False)).open()
                break
            except EngineUnhealthy:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        session.push(np.zeros(1920, np.float32))
        session.finish()
        *_, end = session
        assert isinstance(end, Ended) and end.reason == "finished"
        assert engine._backend.pid != ill  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        assert engine.metrics().restarts == 1
