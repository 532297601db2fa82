"""Finds a caller's order in a database while the call goes on, and has Moshi say it.

    pip install "moshi-agent[server,annotate]"
    moshi-agent serve --look-up look_up.py:look_up --transcribe look_up.py:Hearing

and ask on the page that it serves: "Where is my order?" Or by a program of one's own:

    python look_up.py question.wav answer.wav
"""

from __future__ import annotations

import argparse
import sqlite3
from pathlib import Path

from moshi_agent import (
    AskConfig,
    Engine,
    Event,
    MoshiAgentError,
    ReferenceEnded,
    ReferenceWanted,
    SessionConfig,
    Turn,
)
from moshi_agent.audio.files import AudioWriter, read_audio
from moshi_agent.training.annotation.sphinx import SphinxRecogniser

SCHEMA = Path(__file__).with_name("orders.sql")
GRAMMAR = "#JSGF V1.0; grammar shop; public <asked> = where is my order | when will my {} arrive ;"
THINGS = ("lamp", "book", "bicycle")


class Hearing(SphinxRecogniser):
    """Writes down what callers of this shop ask."""

    def __init__(self) -> None:
        super().__init__(grammar=GRAMMAR.format(f"( {' | '.join(THINGS)} )"))


async def look_up(wanted: ReferenceWanted) -> str | None:
    """Answers what the caller has just said, with None where it is about something else."""
    words = wanted.question.lower().split()
    if "order" not in words and not set(words) & set(THINGS):
        return None
    thing = next((word for word in words if word in THINGS), "lamp")
    with sqlite3.connect(":memory:") as database:  # a real shop's is somewhere else
        database.executescript(SCHEMA.read_text(encoding="utf-8"))
        row = database.execute("SELECT state, arrives_on FROM orders WHERE thing = ?", (thing,)).fetchone()
    match row:
        case ("sent", weekday):
            return f"Your {thing} will arrive on {weekday}."
        case (state, _):
            return f"Your {thing} has arrived." if state == "arrived" else "Your order is late, I am sorry."
        case _:
            return "I cannot find your order."


def on_event(event: Event) -> None:
    """Prints what was asked and found."""
    if isinstance(event, ReferenceWanted):
        print(f"asked: {event.question}", flush=True)
    elif isinstance(event, ReferenceEnded):
        print(f"{event.reason}: {event.text}", flush=True)


def has_asked(turns: tuple[Turn, ...]) -> bool:
    """Whether something is to be looked up, where the model does not say so itself."""
    return bool(turns) and turns[-1].speaker == "user"


def converse(question: Path, out: Path) -> None:
    """One conversation: the question in, the answer out."""
    with AudioWriter(out) as answer, Engine.load("tiny", capacity=1, transcriber=Hearing()) as engine:
        asking = AskConfig(when=None if engine.model.asks else has_asked, filler="One moment, please.")
        how = "as_trained" if engine.model.references else "say"
        session = engine.open_session(
            SessionConfig(asking=asking, references=how, live=True, seed=0),
            on_audio=lambda audio: answer.write(audio.pcm),
            on_event=on_event,
            on_reference=look_up,
        )
        session.push(read_audio(question), sample_rate=24_000)
        session.finish()
        session.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Asks where an order is, and looks it up.")
    parser.add_argument("question", type=Path, help="a recording of it")
    parser.add_argument("answer", type=Path, help="the wav file to write")
    options = parser.parse_args()
    try:
        converse(options.question, options.answer)
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted\n")
    except MoshiAgentError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
