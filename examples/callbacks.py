"""Puts a recorded question to the model: words are printed as they are spoken, the answer is written.

    pip install moshi-agent
    python callbacks.py question.wav answer.wav

The engine calls `on_audio` and `on_event` in a thread of its own; `push` may be called from any thread, with
chunks of any size. Any audio file will do. `--live` feeds it at the speed of speech, as a microphone would.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from moshi_agent import Ended, Engine, Event, MoshiAgentError, SessionConfig, Word
from moshi_agent.audio.files import AudioWriter, read_audio

CHUNK_S = 0.02
RATE_HZ = 24_000  # of what `read_audio` returns, and of the answer


def on_event(event: Event) -> None:
    """Prints what the bot says, word by word."""
    if isinstance(event, Word):
        print(event.text, end=" ", flush=True)
    elif isinstance(event, Ended):
        print(f"\n({event.reason}{f': {event.error}' if event.error else ''})")


def converse(question: Path, out: Path, model: str, live: bool) -> None:
    """One conversation: the question in, the answer out."""
    samples = read_audio(question)  # [N] float32 mono, resampled
    chunk = round(CHUNK_S * RATE_HZ)
    # The engine ends before the file does: it may call until then.
    with AudioWriter(out) as answer, Engine.load(model, capacity=1) as engine:
        session = engine.open_session(
            SessionConfig(live=live, seed=0),
            on_audio=lambda audio: answer.write(audio.pcm),
            on_event=on_event,
        )
        begin = time.monotonic()
        for start in range(0, len(samples), chunk):
            if live:
                time.sleep(max(0.0, begin + start / RATE_HZ - time.monotonic()))
            session.push(samples[start : start + chunk], sample_rate=RATE_HZ)
        session.finish()  # from here on the bot hears silence, until it has answered
        session.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Puts a recorded question to the model.")
    parser.add_argument("question", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--model", default="tiny", help="tiny, a Hugging Face repository, or a folder")
    parser.add_argument("--live", action="store_true", help="at the speed of speech")
    options = parser.parse_args()
    try:
        converse(options.question, options.answer, options.model, options.live)
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted\n")
    except MoshiAgentError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
