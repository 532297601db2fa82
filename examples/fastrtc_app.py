"""Moshi in a Gradio page, by FastRTC.

    pip install "moshi-agent[fastrtc]"
    python fastrtc_app.py

The page shows what the bot says as it says it. `stream.mount(app)` has the same over WebRTC, a websocket and
Twilio's telephone in a FastAPI application of one's own.
"""

from __future__ import annotations

import argparse

import gradio as gr
from fastrtc import Stream

from moshi_agent import Engine
from moshi_agent_adapters.fastrtc import MoshiHandler


def main() -> None:
    parser = argparse.ArgumentParser(description="Moshi in a Gradio page.")
    parser.add_argument("--model", default="tiny", help="tiny, a Hugging Face repository, or a folder")
    parser.add_argument("--calls", type=int, default=4, help="at once")
    options = parser.parse_args()
    with Engine.load(options.model, capacity=options.calls) as engine:
        stream = Stream(
            MoshiHandler(engine),
            modality="audio",
            mode="send-receive",
            concurrency_limit=options.calls,
            additional_outputs=[gr.Textbox(label="Moshi"), gr.State([])],
            additional_outputs_handler=said,
        )
        stream.ui.launch()


def said(_: str, pieces: list[str], piece: str) -> tuple[str, list[str]]:
    """Adds a piece to what is shown. FastRTC gives the same list for each piece of a call."""
    pieces.append(piece)
    return "".join(pieces).strip(), pieces


if __name__ == "__main__":
    main()
