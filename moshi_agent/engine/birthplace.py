"""The process that an engine was made in: its threads, locks and pipes do not come along in a fork."""

from __future__ import annotations

import os

from moshi_agent.errors import EngineUnhealthy


class Birthplace:
    """Remembers in which process something was made. To ask costs a system call, and takes no lock."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is still that process, and no fork of it."""
        return os.getpid() == self._pid

    @property
    def refusal(self) -> EngineUnhealthy | None:
        """Why nothing can be asked here, in a fork."""
        if self.is_here:
            return None
        return EngineUnhealthy(
            f"the engine was loaded in process {self._pid}, and this is a fork of it, {os.getpid()}: "
            "an engine does not come along; load it after the fork, or with another start method (spawn)"
        )

    def check(self) -> None:
        """Raises EngineUnhealthy in a fork."""
        refusal = self.refusal
        if refusal is not None:
            raise refusal
