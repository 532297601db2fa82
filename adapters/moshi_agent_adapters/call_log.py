"""The line that the log has about each call, whatever it came over."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class CallLog:
    """What the log says of one call. Its time runs from here on."""

    over: str  # the protocol or the component that holds it
    session: int | None = None  # its number in the engine, once it has one
    began_at: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """What to call it in a line."""
        return f"a call over {self.over}" if self.session is None else f"session {self.session}"

    @property
    def facts(self) -> dict[str, Any]:
        """What handlers that keep facts are given with a line."""
        return {"over": self.over} if self.session is None else {"over": self.over, "session": self.session}

    def ended(self, reason: str) -> tuple[str, dict[str, Any]]:
        """Gives the line about its end, and the facts of it.

        Args:
            reason: why it is over. What a client has put into it cannot make it two lines.
        """
        seconds, reason = time.monotonic() - self.began_at, one_line(reason)
        who = self.over if self.session is None else f"{self.over}, session {self.session}"
        facts = self.facts | {"seconds": round(seconds, 3), "reason": reason}
        return f"call ended after {seconds:.1f} s ({who}): {reason}", facts


def one_line(text: str) -> str:
    """The text, with escapes for whatever is not printable."""
    return text if text.isprintable() else repr(text)[1:-1]
