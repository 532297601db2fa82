"""A voice agent for LiveKit: a greeting, transcripts, and with an LLM behind it a tool and a hand-off.

    pip install "moshi-agent[livekit]" livekit-plugins-openai
    export LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=...
    python examples/livekit_agent.py dev

All calls of the worker share one engine. Ask one of the built-in model's questions, as shown by
`moshi-agent run --list-questions`. From the environment:

    MOSHI_MODEL        another checkpoint, such as kyutai/moshiko-pytorch-bf16
    MOSHI_CALLS        how many may call at once
    MOSHI_TRANSCRIBER  a recogniser that writes down what users say, such as kyutai/stt-1b-en_fr
    MOSHI_BACKEND_URL  an OpenAI-compatible server, such as http://localhost:8000/v1, whose model writes what
                       Moshi says, and calls tools; it needs a transcriber
    MOSHI_BACKEND      the model's name there
"""

import logging
import os

from livekit.agents import (
    Agent,
    AgentSession,
    ConversationItemAddedEvent,
    JobContext,
    cli,
    function_tool,
    llm,
)
from livekit.plugins import moshi, openai

from moshi_agent import Engine, SessionConfig

log = logging.getLogger("livekit_agent")


def load_engine() -> Engine:
    """The engine of all calls, in a process of its own: this one is LiveKit's."""
    return Engine.load(
        os.environ.get("MOSHI_MODEL", "tiny"),
        capacity=int(os.environ.get("MOSHI_CALLS", "4")),
        transcriber=os.environ.get("MOSHI_TRANSCRIBER"),
        process=True,
    )


def load_backend() -> llm.LLM | None:
    """The LLM behind Moshi, if there is one."""
    url = os.environ.get("MOSHI_BACKEND_URL")
    if url is None:
        return None
    key = os.environ.get("OPENAI_API_KEY", "none")
    return openai.LLM(model=os.environ.get("MOSHI_BACKEND", "default"), base_url=url, api_key=key)


class Waiter(Agent):
    """Takes orders. Another one may go on with the call: the conversation stays the same."""

    def __init__(self) -> None:
        super().__init__(instructions="You serve in a cafe. Answer in one short sentence.")

    @function_tool
    async def opening_hours(self, day: str) -> str:
        """Tells when the cafe is open on a day of the week."""
        return "closed" if day.lower() == "monday" else "from eight to six"

    @function_tool
    async def call_the_baker(self) -> Agent:
        """Hands the guest over to the baker, who knows everything about cakes."""
        return Baker()


class Baker(Agent):
    """Knows about cakes."""

    def __init__(self) -> None:
        super().__init__(instructions="You bake the cakes of a cafe. Answer in one short sentence.")

    async def on_enter(self) -> None:
        """Begins with a sentence that is spoken word for word."""
        self.session.say("I am the baker. How can I help you?")


server = moshi.MoshiServer(load_engine)


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    model = moshi.RealtimeModel(server.engine, backend=load_backend(), session=SessionConfig(greet=True))
    session = AgentSession[None](llm=model, **moshi.SESSION_OPTIONS)

    @session.on("conversation_item_added")
    def write_down(event: ConversationItemAddedEvent) -> None:
        if isinstance(event.item, llm.ChatMessage):
            log.info("%s: %s", event.item.role, event.item.text_content)

    await session.start(Waiter(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
