"""Words and their times while they are being said."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from moshi_agent.saved import saved_record, saved_value
from moshi_agent.text.pieces import PieceReader, Tokenizer, split_words

LONGEST_WORD_S = 1.0


@dataclass(frozen=True)
class TimedWord:
    """Holds a word and when it is said, in seconds from the first frame."""

    word: str
    start: float
    end: float


@dataclass(slots=True)
class _OpenWord:
    """A word that is not complete. Times are frames."""

    text: str  # empty while there is but the space that begins it
    start: int
    was_heard: bool = False  # the output has been audible since the start
    fell_silent: int | None = None  # the first frame under the floor after that


class WordTracker:
    """Gives each word once, as soon as its text and its end are known.

    Frame by frame: `add` the token the model has written, then `hear` whether its output is audible. A token
    may be given with a later frame than the one being heard, the one in which its sound will come.

    A word ends where the next one begins or where the output falls under the floor, whichever is first, and
    `LONGEST_WORD_S` after its start at the latest. Silence before its first sound does not end it.

    Its text is the piece that begins it and those after it without a leading space. As the pieces of a word
    come in frames that follow one another, a frame that writes nothing closes the text, unless the word still
    sounds: what comes then still belongs to it. A piece that goes on with a word already given, as one longer
    than the longest, is a word of its own.

    Args:
        tokenizer: a sentencepiece model, or None for a checkpoint without one; there are then no words.
        frame_s: seconds in a frame.
    """

    def __init__(self, tokenizer: Tokenizer | None, frame_s: float) -> None:
        self._reader = PieceReader(tokenizer)
        self._frame_s = frame_s
        self._longest_frames = math.ceil(LONGEST_WORD_S / frame_s - 1e-6)
        self._open: list[_OpenWord] = []  # in the order of their starts
        self._is_writing = False  # the newest token belongs to a word, which may go on with the next one

    def add(self, token: int, frame: int) -> str:
        """Takes a token whose sound comes in `frame`. Returns the text that begins there, "" for most."""
        text = self._reader.read(token)
        self._is_writing = bool(text) or self._reader.in_character
        self._write(text, frame)
        return text

    def _write(self, text: str, frame: int) -> None:
        continued, begun = split_words(text)
        if continued and self._open:
            self._open[-1].text += continued
        elif continued:
            self._open.append(_OpenWord(continued, frame))
        self._open += [_OpenWord(word, frame) for word in begun]

    def hear(self, frame: int, audible: bool) -> list[TimedWord]:
        """Takes whether the output of `frame` is above the floor. Returns the words complete by its end."""
        for word in self._open:
            if audible:
                word.was_heard |= word.start <= frame
            elif word.was_heard and word.fell_silent is None:
                word.fell_silent = frame
        complete: list[TimedWord] = []
        while self._open and self._first_is_complete(frame):
            complete += self._timed(0, frame)
            del self._open[0]
        return complete

    def _first_is_complete(self, frame: int) -> bool:
        word, has_next = self._open[0], len(self._open) > 1
        if has_next and self._open[1].start <= frame + 1:
            return True
        if word.fell_silent is not None and (has_next or not self._is_writing):
            return True
        return frame + 1 - word.start >= self._longest_frames

    def _timed(self, place: int, frame: int) -> list[TimedWord]:
        """An open word by its place, if it has any text; `frame` is the last one heard."""
        word = self._open[place]
        ends = [frame + 1, *(following.start for following in self._open[place + 1 : place + 2])]
        if word.fell_silent is not None:
            ends.append(word.fell_silent)
        start = word.start * self._frame_s
        end = min(min(ends) * self._frame_s, start + LONGEST_WORD_S)
        return [TimedWord(word.text, round(start, 6), round(end, 6))] if word.text else []

    def unfinished(self, frame: int) -> list[TimedWord]:
        """Lists the words not yet given that have begun before `frame`, as if they ended there."""
        begun = [place for place, word in enumerate(self._open) if word.start < frame]
        return [word for place in begun for word in self._timed(place, frame - 1)]

    def finish(self, frame: int) -> list[TimedWord]:
        """Ends the stream before `frame`. Returns the words not yet given that have begun by then."""
        self._write(self._reader.flush(), frame - 1)
        words = self.unfinished(frame)
        self._open.clear()
        self._is_writing = False
        return words

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, fit for JSON."""
        return {
            "character": self._reader.save(),
            "is_writing": self._is_writing,
            "open": [asdict(word) for word in self._open],
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` returned."""
        self._reader.load(saved["character"])
        self._is_writing = saved_value(saved["is_writing"], bool, "is_writing")
        self._open = [saved_record(_OpenWord, word) for word in saved["open"]]
