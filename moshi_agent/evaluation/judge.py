"""A language model that judges what was said, at any URL that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from moshi_agent.errors import ConfigError, DataError
from moshi_agent.evaluation.words import SpokenWord

BEHAVIORS = ("C_RESPOND", "C_RESUME", "C_UNCERTAIN_HANDLING", "C_UNKNOWN")
_TRIES = 3
_LONGEST_S = 120.0

_RATING = """\
You read parts of a spoken conversation between a user and an assistant. The user asked something; while the
assistant answered, the user broke in with something else. Judge how well what the assistant said after that
fits what the user broke in with: 0 is no relation at all, 1 none that helps, 2 a little, 3 related, 4 closely
related, 5 a perfect reply. Explain it in a sentence or two, then end with this line, a number in place of N:
I would rate the AI's response as N"""

_BEHAVIOR = """\
You read the words of a spoken conversation, each with its start and end in seconds: input_clean and
output_clean are a user and the assistant undisturbed, input_noisy and output_noisy the same where another
utterance overlaps. Take the first new piece of meaning that the assistant begins after the overlap has begun,
and sort it:
C_RESPOND: it takes up what the overlapping utterance says.
C_RESUME: it passes over it, and goes on with what it was doing.
C_UNCERTAIN_HANDLING: it says that it has not heard or understood, or asks for it again.
C_UNKNOWN: none of these, or nothing is said after the overlap.
Answer with one line of JSON and nothing after it, such as {"behaviour": ["C_RESUME"]}."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Asks a model.

    Raises:
        ConfigError: the URL is none.
    """

    url: str  # such as http://localhost:8000/v1
    model: str
    key: str | None = field(default=None, repr=False)
    behavior_instruction: str = _BEHAVIOR  # the benchmark's own text may stand here

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"the judge's URL {self.url!r}; accepted: one like http://localhost:8000/v1")

    def rating(self, context: str, interruption: str, reply: str) -> tuple[int, str]:
        """Rates from 0 to 5 how a reply fits an interruption, and says why.

        Raises:
            DataError: the judge cannot be reached, or gives no rating however often it is asked.
        """
        asked = f"User: {context}\nUser, breaking in: {interruption}\nAssistant, after that: {reply}"
        for seed in range(_TRIES):
            told = self._ask(_RATING, asked, seed)
            found = re.search(r"I would rate the AI's response as\D*([0-5])\b", told)
            if found:
                return int(found[1]), told[: found.start()].strip()
        raise DataError(f"the judge {self.model} gives no rating")

    def behavior(self, words: Mapping[str, Sequence[SpokenWord]]) -> str:
        """Sorts what the model does after an overlap into one of `BEHAVIORS`.

        Args:
            words: `input_clean`, `input_noisy`, `output_clean`, `output_noisy`.

        Raises:
            DataError: the judge cannot be reached, or gives none of them however often it is asked.
        """
        rows = {name: [_chunk(word) for word in said] for name, said in words.items()}
        asked = json.dumps(rows, separators=(",", ":"), ensure_ascii=False)
        for seed in range(_TRIES):
            told = self._ask(self.behavior_instruction, asked, seed)
            found = re.search(rf"\b({'|'.join(BEHAVIORS)})\b", told[told.rfind("{") :])
            if found:
                return found[1]
        raise DataError(f"the judge {self.model} names no behavior of {', '.join(BEHAVIORS)}")

    def _ask(self, instruction: str, asked: str, seed: int) -> str:
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": asked}]
        body = json.dumps({"model": self.model, "messages": messages, "seed": seed}).encode()
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=_LONGEST_S) as answer:
                content: Any = json.load(answer)
            return cast("str", content["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            raise DataError(f"the judge at {self.url} refuses: {error.code} {error.reason}") from error
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"the judge at {self.url} gives no answer: {error}") from error


def _chunk(word: SpokenWord) -> dict[str, Any]:
    return {"text": word.text, "timestamp": [word.start_s, word.end_s]}
