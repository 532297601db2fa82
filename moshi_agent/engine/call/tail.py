"""What comes after the end of the input: silence, for as long as the bot has something to say."""

from __future__ import annotations

from dataclasses import dataclass

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.checkpoint.translation import Ends
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.step.step_tensors import Tokens


@dataclass(frozen=True, slots=True)
class TailFrame:
    """Silence after the end of an input that is not live."""


class Tail:
    """The frames after the end of one conversation's input.

    Args:
        ends: of a translation, which is told of the end and says by itself when it is done.
    """

    def __init__(self, config: SessionConfig, ends: Ends | None) -> None:
        self._config = config
        self._ends = ends
        self._frames = 0
        self._is_done = False

    def first_tokens(self, streams: int) -> Tokens | None:
        """Returns the tokens, [streams], forced in the first frame, which hears nothing; None for silence."""
        if self._ends is None or self._frames:
            return None
        return self._ends.tokens(streams)

    def follow(self, text_token: int) -> None:
        """Notes that one of the frames is over, and that the bot has written `text_token`."""
        self._frames += 1
        self._is_done |= self._ends is not None and text_token == self._ends.text_token

    def is_over(self, is_busy: bool) -> bool:
        """Tells whether all is said.

        `is_busy`: the bot speaks, or has something to say that was asked of it.
        """
        tail_ms = 1000 * FRAME_S * self._frames
        if tail_ms >= self._config.longest_tail_ms:
            return True
        return self._is_done if self._ends is not None else tail_ms >= self._config.tail_ms and not is_busy
