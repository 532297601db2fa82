"""What the bot says, as LiveKit is told of it: frames, and the pieces of text that belong to them."""

from __future__ import annotations

from livekit import rtc
from livekit.agents import llm

from moshi_agent import AudioChunk, BotStarted, BotStopped, Event, TextToken
from moshi_agent.audio.framing import FRAME_S
from moshi_agent_adapters.bot_turn import BotTurn, begins_turn
from moshi_agent_adapters.livekit.turn_gate import IN_TURN


class BotSpeech:
    """Follows the turns of one bot.

    A piece of text comes before its sound. Those of a turn are held back until it is heard, so that LiveKit
    takes them for words of this turn and no other. The first one then begins where the sound does, which is
    where LiveKit lays the origin of a turn's times.
    """

    def __init__(self) -> None:
        self._turn: BotTurn | None = None
        self._is_audible = False
        self._is_cut = False
        self._began_ms: int | None = None  # where the sound of this turn began
        self._waiting: list[TextToken] = []
        self.text = ""  # of the turn
        self.frames = 0  # of the turn that were heard
        self.began_at = 0.0  # Unix time

    @property
    def is_in_turn(self) -> bool:
        """Whether a turn of the bot has begun and not ended."""
        return self._turn is not None

    def follow(self, event: Event) -> bool:
        """Takes any event. Returns whether a turn ended with it; `text` and `frames` are then the turn's."""
        if isinstance(event, BotStarted | BotStopped):
            self._is_audible = isinstance(event, BotStarted)
        if self._turn is None:
            if begins_turn(event):
                self._turn = BotTurn()
                self._began_ms, self.text, self.frames = None, "", 0
                self.began_at = event.wall_s
            return False
        if self._turn.ends_with(event):
            self._turn = None
            return True
        return False

    def cut(self) -> bool:
        """Ends the turn, if there is one, though the bot goes on: what it writes next is another one's.

        Returns:
            Whether a turn ended, as `follow` does.
        """
        self._is_cut, self._turn = self.is_in_turn, None
        return self._is_cut

    def write(self, token: TextToken) -> list[llm.DuplexOutputTranscriptDelta]:
        """Takes a piece. Returns the pieces that are to be told now."""
        self._waiting.append(token)
        return [] if self._began_ms is None else self._told()

    def speak(self, chunk: AudioChunk) -> tuple[list[llm.DuplexOutputTranscriptDelta], llm.DuplexAudioFrame]:
        """Takes a chunk. Returns the pieces that are to be told before its frame, and the frame."""
        start_ms = round(1000 * chunk.media_s)
        # A turn begins with its text; its sound may come a frame or two later.
        if self._is_cut:  # a chunk between two turns, or LiveKit would not see where one ends
            self._is_cut = False
        elif self.is_in_turn and self._began_ms is None and self._is_audible:
            self._began_ms = start_ms
        is_heard = self.is_in_turn and self._began_ms is not None
        self.frames += is_heard
        frame = rtc.AudioFrame(
            chunk.to_int16(), chunk.sample_rate, 1, len(chunk.pcm), userdata={IN_TURN: is_heard}
        )
        return self._told() if is_heard else [], llm.DuplexAudioFrame(frame=frame, start_ms=start_ms)

    def _told(self) -> list[llm.DuplexOutputTranscriptDelta]:
        waiting, self._waiting = self._waiting, []
        return [self._delta(token) for token in waiting]

    def _delta(self, token: TextToken) -> llm.DuplexOutputTranscriptDelta:
        assert self._began_ms is not None
        start_ms = round(1000 * FRAME_S * token.aligned_frame)
        text = token.text
        if not self.text:
            start_ms, text = self._began_ms, text.lstrip()
        self.text += text
        return llm.DuplexOutputTranscriptDelta(text, start_ms, start_ms + round(1000 * FRAME_S))
