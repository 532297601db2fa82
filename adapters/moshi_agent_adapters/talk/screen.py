"""What the terminal shows: the bot's words as they come, and one line with levels and delays."""

from __future__ import annotations

import sys
import time

import numpy as np

from moshi_agent.audio.framing import Samples
from moshi_agent_adapters.talk.player import Player

_BAR = 10
_LOWEST_DB = -60.0
_INTERVAL_S = 0.1


class Screen:
    """Words on standard output. The line is on standard error, and only where that is a terminal."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._has_line = sys.stderr.isatty()
        self._shown_at = 0.0
        self._round_trip_ms: float | None = None
        self._column = 0

    def text(self, piece: str) -> None:
        """A piece of what the bot says."""
        self._clear()
        piece = printable(piece)
        print(piece if self._column else piece.lstrip(), end="", flush=True)
        self._column += len(piece)
        if self._has_line and piece.rstrip().endswith((".", "?", "!")):
            self.end_line()

    def end_line(self) -> None:
        """What comes next begins a line."""
        if self._column:
            print(flush=True)
        self._column = 0

    def lost(self, notice: str) -> None:
        """The connection is gone, in mid-sentence perhaps; what comes next is of another one."""
        self._round_trip_ms = None
        self.note(notice)

    def note(self, text: str) -> None:
        """A line that is none of the bot's, on standard error."""
        self._clear()
        self.end_line()
        print(printable(text), file=sys.stderr, flush=True)

    def round_trip(self, seconds: float) -> None:
        """How long a message and its answer took."""
        self._round_trip_ms = 1000 * seconds

    def sound(self, user: Samples, bot: Samples) -> None:
        """What was just heard and played. May be called from any thread."""
        now = time.monotonic()
        if not self._has_line or self._column or now - self._shown_at < _INTERVAL_S:
            return
        self._shown_at = now
        network = "-" if self._round_trip_ms is None else f"{self._round_trip_ms:.0f} ms"
        line = (
            f"you {level_bar(user)}  bot {level_bar(bot)}  network {network}  "
            f"buffer {self._player.waiting_ms} ms  skipped {self._player.skipped_ms} ms"
        )
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._has_line and not self._column:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def printable(text: str) -> str:
    """Returns the text with a sign in place of each character that would command the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def level_bar(samples: Samples) -> str:
    """A bar as long as samples are loud, from -60 dB of full scale on."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    decibels = 20 * np.log10(max(rms, 1e-9))
    length = round(_BAR * float(np.clip(1 - decibels / _LOWEST_DB, 0, 1)))
    return "#" * length + "." * (_BAR - length)
