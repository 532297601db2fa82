"""What was found elsewhere during a conversation, and when: the file `NAME.references.json` beside its audio.

The file is KAME's: a list of candidate answers with times, of which the newest is what the model reads.
https://github.com/SakanaAI/kame_finetune
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from moshi_agent.errors import DataError
from moshi_agent.text.pieces import Tokenizer

_MAIN_CHANNEL = 0
_WANTED = 'wanted is {"timestamp_ms": 1500, "prediction": "Your order is on its way."}'


@dataclass(frozen=True, slots=True)
class Reference:
    """Holds a text that the model is given, and the second from which on it reads it."""

    text: str
    start_s: float


def references_path(audio: Path) -> Path:
    """Tells where the references of an audio file are."""
    return audio.with_suffix(".references.json")


def read_references(path: Path, duration_s: float = math.inf) -> tuple[Reference, ...]:
    """Reads those of a file that lasts `duration_s`, in order of time; none where there is no such file.

    An entry has `timestamp_ms` and `prediction`. As in KAME's training, its `hint` goes before the prediction
    where its `current_spoken_ratio` is 1 or more, and entries of another `channel` than Moshi's (0, the left)
    are left out; all other keys are.

    Raises:
        DataError: it is of another form, or has an entry outside its audio.
    """
    try:
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: {content!r:.60} is no list; {_WANTED}")
    found = [
        _reference(entry, duration_s, f"{path}, entry {number}")
        for number, entry in enumerate(cast("list[object]", content), 1)
    ]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.start_s))


def _reference(entry: object, duration_s: float, place: str) -> Reference | None:
    """None where there is nothing to read."""
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    time_ms, ratio = fields.get("timestamp_ms"), fields.get("current_spoken_ratio", 0.0)
    prediction, hint = fields.get("prediction"), fields.get("hint", "")
    is_number = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (time_ms, ratio))
    if not is_number or not isinstance(prediction, str) or not isinstance(hint, str):
        raise DataError(f"{place}: {entry!r:.80}; {_WANTED}")
    start_s = cast(float, time_ms) / 1000
    if not 0 <= start_s < duration_s:
        raise DataError(f"{place}: {start_s:.2f} s is outside its file of {duration_s:.2f} s")
    text = (hint if cast(float, ratio) >= 1 and hint.strip() else prediction).strip()
    is_ours = fields.get("channel", _MAIN_CHANNEL) == _MAIN_CHANNEL
    return Reference(text, start_s) if text and is_ours else None


@dataclass(frozen=True, kw_only=True)
class ReferenceStream:
    """Lays the pieces of references on the frames, one a frame, behind a token that tells of a new one.

    A new reference takes the place of what is left of the one before. The token of a frame is read in the
    step that predicts the frame's text.
    """

    tokenizer: Tokenizer
    frame_rate_hz: float
    initial: int  # of the text: here, a new reference
    padding: int = 3

    def tokens(self, references: Sequence[Reference], start: int, frames: int) -> list[int]:
        """Returns the tokens [frames] from frame `start` on; one that began before goes on where it was."""
        stream = [self.padding] * frames
        for reference in references:
            first = int(reference.start_s * self.frame_rate_hz) - start
            stream[max(first, 0) :] = [self.padding] * len(stream[max(first, 0) :])
            pieces = [self.initial, *self.tokenizer.encode(" ".join(reference.text.split()))]
            for frame, piece in enumerate(pieces, first):
                if 0 <= frame < frames:
                    stream[frame] = piece
        return stream
