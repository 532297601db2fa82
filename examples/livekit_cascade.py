"""A cascade on LiveKit: Kyutai's speech recognition in the worker, any LLM, any text-to-speech.

    pip install "moshi-agent[livekit]" livekit-plugins-openai
    export LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=...
    export LLM_URL=http://localhost:11434/v1 TTS_URL=http://localhost:8880/v1
    python examples/livekit_cascade.py dev

LLM_URL is a server of OpenAI's Chat Completions (Ollama, vLLM, llama.cpp), TTS_URL one of OpenAI's speech
(Kokoro-FastAPI, speaches); LLM_MODEL and TTS_MODEL name the models there. MOSHI_STT names another recogniser
than kyutai/stt-1b-en_fr, and MOSHI_CALLS says how many may call at once: all of them share one engine.
"""

import os

from livekit.agents import Agent, AgentSession, JobContext, cli
from livekit.plugins import moshi, openai

from moshi_agent import Engine

KEY = os.environ.get("OPENAI_API_KEY", "none")


def load_engine() -> Engine:
    """The engine of all calls, in a process of its own: this one is LiveKit's."""
    model, calls = os.environ.get("MOSHI_STT", "kyutai/stt-1b-en_fr"), os.environ.get("MOSHI_CALLS", "8")
    return Engine.load(model, recogniser=True, capacity=int(calls), process=True)


def cascade(engine: Engine) -> AgentSession[None]:
    """The session of one call. The recogniser tells when the user's turn is over."""
    llm_url = os.environ.get("LLM_URL", "http://localhost:11434/v1")
    tts_url = os.environ.get("TTS_URL", "http://localhost:8880/v1")
    return AgentSession(
        stt=moshi.STT(engine),
        llm=openai.LLM(model=os.environ.get("LLM_MODEL", "default"), base_url=llm_url, api_key=KEY),
        tts=openai.TTS(
            model=os.environ.get("TTS_MODEL", "default"), base_url=tts_url, api_key=KEY, response_format="wav"
        ),
        vad=None,
        turn_handling={"turn_detection": "stt"},
    )


server = moshi.MoshiServer(load_engine)


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """One call."""
    agent = Agent(instructions="You answer by voice, in one or two short sentences.")
    await cascade(server.engine).start(agent, room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
