"""Moshi in a Gradio page, by FastRTC.

    pip install "moshi-agent[fastrtc]"
    python fastrtc_app.py

`stream.mount(app)` has the same over WebRTC and a websocket in a FastAPI application of one's own, and
`stream.fastphone()` on a telephone.
"""

from __future__ import annotations

import argparse

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
            MoshiHandler(engine), modality="audio", mode="send-receive", concurrency_limit=options.calls
        )
        stream.ui.launch()


if __name__ == "__main__":
    main()
