"""Reads the file that says what the model is to learn: a line `question | answer` for each exchange."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from moshi_agent.errors import DataError
from moshi_agent.training.tiny.phrases import Exchange, Phrases, plain
from moshi_agent.training.tiny.tokenizer import word_pieces

SEPARATOR = "|"
COMMENT = "#"


def read_exchanges(path: Path) -> tuple[Exchange, ...]:
    """Reads the exchanges of a file; empty lines and those that begin with `#` are none.

    Two questions may have the same answer: other words for the same thing.

    Raises:
        DataError: the file cannot be read, has no exchange, or a line is of another form or asks what another
            line asks.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    exchanges: dict[str, Exchange] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(COMMENT):
            continue
        exchange = _exchange(line, f"{path}, line {number}")
        if plain(exchange.question) in exchanges:
            raise DataError(f"{path}, line {number}: {exchange.question!r} is asked in another line already")
        exchanges[plain(exchange.question)] = exchange
    if not exchanges:
        raise DataError(f"{path} has no line `question {SEPARATOR} answer`")
    return tuple(exchanges.values())


def extended(
    phrases: Phrases,
    exchanges: tuple[Exchange, ...],
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> Phrases:
    """Adds `exchanges` behind those that `phrases` has.

    Raises:
        DataError: a question that `phrases` have already, or an answer that the tokenizer cannot write.
    """
    known = {plain(exchange.question) for exchange in phrases.exchanges}
    for exchange in exchanges:
        if plain(exchange.question) in known:
            raise DataError(f"{exchange.question!r} is asked in the model's own exchanges already")
        for word, ids in zip(exchange.answer.split(), word_pieces(tokenizer, exchange.answer), strict=True):
            if tokenizer.unk_id() in ids:
                raise DataError(f"{word!r} in {exchange.answer!r} has a letter that the model cannot write")
    return Phrases(
        exchanges=(*phrases.exchanges, *exchanges), greeting=phrases.greeting, default=phrases.default
    )


def _exchange(line: str, place: str) -> Exchange:
    question, separator, answer = (part.strip() for part in line.partition(SEPARATOR))
    if not separator or SEPARATOR in answer or not plain(question) or not plain(answer):
        raise DataError(f"{place}: {line.strip()[:60]!r}; wanted is `question {SEPARATOR} answer`")
    # The melody of a question follows its last mark.
    return Exchange(question=question if question[-1] in ".?!" else f"{question}?", answer=answer)
