"""Sentences that the bot was asked to speak.

While there is one, the model's text is restricted to padding, end of padding and the next piece of the
sentence, which comes as likely as any piece would. So the model chooses when to speak; where it does not in
time, the piece is forced. A word of its own that it is in the middle of comes to its end before.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from moshi_agent.errors import BacklogFull, InputError
from moshi_agent.saved import saved_value
from moshi_agent.text.pieces import Tokenizer, Words, is_text
from moshi_agent.text.sentences import MOST_PIECES, words_to_say

_TURN_FRAMES = 25  # in which the model may find its turn to speak
_LONGEST_WORD_PIECES = 8  # of the model's own: more without a pause are not waited for


class GuidedText:
    """One sentence, piece by piece.

    Its pieces are those of its words one by one, as in the text that the model was trained on, where the
    pieces of a word also stand in frames that follow one another: patience is for beginnings of words, and
    what goes on with a word is forced at once.

    Args:
        text: the sentence.
        words: the pieces of each of its words, at least one.
        patience_frames: how many frames the model may let pass before each word. The built-in model takes no
            more in a sentence it knows; more of them only draw out one that it has to be forced through.
        first_patience_frames: the same before the first word, where it may wait for its turn.
        alone: nothing of the model's own is to follow the sentence.
    """

    def __init__(
        self,
        text: str,
        words: Words,
        patience_frames: int = 12,
        first_patience_frames: int = _TURN_FRAMES,
        alone: bool = False,
    ) -> None:
        self.text = text
        self.alone = alone
        self._pieces: list[int] = []
        self._patience: list[int] = []  # frames, for each piece
        self._taken = 0  # pieces
        self._waited = 0  # frames since the last of them
        for word in words:
            self._pieces += word
            self._patience += [patience_frames, *[0] * (len(word) - 1)]
        self._patience[0] = first_patience_frames

    def __len__(self) -> int:
        """How many pieces are left."""
        return len(self._pieces) - self._taken

    @property
    def done(self) -> bool:
        """Whether the model has taken every piece. Its sound is still to come."""
        return self._taken == len(self._pieces)

    @property
    def is_at_start(self) -> bool:
        """Whether none of its pieces has been taken."""
        return not self._taken

    @property
    def next_piece(self) -> int:
        """The token of the text stream that is next; there is none once `done`."""
        return self._pieces[self._taken]

    @property
    def must(self) -> bool:
        """Whether the model has let so many frames pass that the next piece is to be forced."""
        return not self.done and self._waited >= self._patience[self._taken]

    def advance(self, token: int) -> None:
        """Takes the text token of a frame, forced or not: the next piece, or one more frame of waiting."""
        if self.done:
            return
        if token == self.next_piece:
            self._taken += 1
            self._waited = 0
        else:
            self._waited += 1

    def save(self) -> dict[str, Any]:
        """Returns text, manner and place, fit for JSON."""
        return {
            "text": self.text,
            "at_once": self._patience[0] == 0,
            "alone": self.alone,
            "taken": self._taken,
            "waited": self._waited,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave, of a guided of the same text."""
        self._taken, self._waited = (saved_value(saved[key], int, key) for key in ("taken", "waited"))
        if not 0 <= self._taken < len(self._pieces):
            raise InputError(f"damaged: {self._taken} of {len(self._pieces)} pieces of a sentence are said")


class SayQueue:
    """The sentences of a conversation, one after the other.

    Args:
        tokenizer: as for `words_to_say`.
        most_pieces: how many pieces may wait, of all sentences together; a piece takes a frame or more.
    """

    def __init__(self, tokenizer: Tokenizer | None, most_pieces: int = MOST_PIECES) -> None:
        self._tokenizer = tokenizer
        self._most_pieces = most_pieces
        self._queue: deque[GuidedText] = deque()
        self._own_pieces = 0  # that the model has just said of its own accord, without a pause

    def __len__(self) -> int:
        """How many sentences are not done."""
        return len(self._queue)

    @property
    def current(self) -> GuidedText | None:
        """The sentence that the next piece is to be of; None where there is none, or a word ends first."""
        return self._queue[0] if self._queue and not self.in_own_word else None

    @property
    def in_own_word(self) -> bool:
        """Whether the model is in the middle of a word of its own."""
        return 0 < self._own_pieces < _LONGEST_WORD_PIECES

    def add(self, text: str, at_once: bool = False, alone: bool = False, words: Words | None = None) -> None:
        """Queues a sentence.

        Args:
            text: the sentence.
            at_once: its first word does not wait until the model would speak.
            alone: as for `GuidedText`.
            words: what `words_to_say` made of the text, where that is known.

        Raises:
            InputError: as for `words_to_say`.
            BacklogFull: too many pieces would wait; the sentence is not taken.
        """
        waiting = sum(map(len, self._queue))
        words = words or words_to_say(self._tokenizer, text, self._most_pieces - waiting)
        first_patience = 0 if at_once else _TURN_FRAMES
        guided = GuidedText(text, words, first_patience_frames=first_patience, alone=alone)
        if waiting + len(guided) > self._most_pieces:
            raise BacklogFull(
                f"{len(guided)} pieces of text to say, and {waiting} wait already; at most "
                f"{self._most_pieces} may: say less, or wait for what was asked to be said"
            )
        self._queue.append(guided)

    def advance(self, token: int) -> str | None:
        """Takes the text token of a frame, forced or not. Returns the sentence it completes, if any."""
        guided = self.current
        if guided is None:
            is_piece = self._tokenizer is not None and is_text(self._tokenizer, token)
            self._own_pieces = self._own_pieces + 1 if is_piece else 0
            return None
        self._own_pieces = 0
        guided.advance(token)
        return self._queue.popleft().text if guided.done else None

    def save(self) -> dict[str, Any]:
        """Returns all sentences that are not done, fit for JSON."""
        return {"own_pieces": self._own_pieces, "queue": [guided.save() for guided in self._queue]}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        self._own_pieces = saved_value(saved["own_pieces"], int, "own_pieces")
        self._queue.clear()
        for guided in saved["queue"]:
            at_once, alone = (saved_value(guided[key], bool, key) for key in ("at_once", "alone"))
            self.add(saved_value(guided["text"], str, "a sentence"), at_once, alone)
            self._queue[-1].load(guided)
