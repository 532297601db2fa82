"""Which of Moshi's audio LiveKit takes for speech."""

from __future__ import annotations

from livekit import rtc

IN_TURN = "moshi_agent.in_turn"  # in a frame's userdata: whether it belongs to a turn of the bot


class TurnGate:
    """Follows the engine, which knows where a turn of the bot begins and ends.

    A gate that listens for itself, as LiveKit's own do, joins an answer that the user interrupted with the
    next one, which may come a few frames later.
    """

    def update(self, frame: rtc.AudioFrame) -> bool:
        """Tells whether the frame belongs to a turn."""
        return bool(frame.userdata.get(IN_TURN))

    def deactivate(self) -> None:
        """Does nothing: nothing has been learned, and the next frame says by itself what it is."""
