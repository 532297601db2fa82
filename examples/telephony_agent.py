"""A phone agent with a job: somebody dials a Twilio number, and asks Moshi where an order is.

    pip install "moshi-agent[telephony,annotate]"
    export TWILIO_AUTH_TOKEN=...   # of your account: requests that it has not signed are refused
    python examples/telephony_agent.py --public-url https://your-host.example.com --person +15551234567

Have the number's voice webhook point to https://your-host.example.com/voice (POST). The agent greets, hears
and speaks at the same time, and can be interrupted. It finds orders by the caller's number in an SQLite
database (`order_desk.py`, `orders.sql`), in which it also keeps how each call went and what was said. On the
keypad, 0 ends the call, 1 repeats the greeting, 2 hands over to a person. With `--backend-url` a language
model answers, with the same tools. Run it as one process: the engine is shared by all calls, and so is the
count of them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape, quoteattr

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from loguru import logger
from order_desk import HAND_OVER, CallRecord, LanguageModel, OrderDesk, answer_by_rule
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    EndFrame,
    EndWorkerFrame,
    Frame,
    InputDTMFFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

from moshi_agent import AskConfig, Engine, ReferenceWanted, SessionConfig
from moshi_agent.events import Turn
from moshi_agent.questions import sample_questions
from moshi_agent.text.transcript import Transcript
from moshi_agent.training.annotation.sphinx import SphinxRecogniser
from moshi_agent_adapters.pipecat import MoshiLLMService, TranscriptFile
from moshi_agent_adapters.pipecat.telephone import TelephoneParams

RATE_HZ = 8_000  # of the telephone network
START_TIMEOUT_S = 10.0  # from the webhook's answer, or the socket's opening, to the start of the stream
MOST_BODY_BYTES = 64 * 1024
WORK = ("where is my order", "i want to know where my order is", "i want to speak to a person")
LOOKED_UP_WORDS = ("order", "person")  # in what a caller says, for models that do not ask by themselves


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How the agent is set up."""

    public_url: str  # where the provider reaches it, without a path: what it signs begins so
    auth_token: str = field(repr=False)
    calls: int = 8  # at once; who calls then hears that the line is busy
    call_limit_s: int = 600
    database: Path = Path("orders.db")
    person: str | None = None  # the telephone number of who takes over
    backend_url: str | None = None  # of a language model, OpenAI-compatible
    backend_model: str = "gpt-5-mini"
    transcripts: Path | None = None  # folder for a file per call
    greeting: str = "Hello, this is Moshi. How can I help you?"  # what the built-in model says by itself


class RefusedCall(Exception):
    """A media stream that is not the one that was asked for."""


class Lines:
    """Who may call, and who does: a webhook reserves a line, and its media stream takes it.

    Providers ask the webhook again when an answer was slow or lost, and open a second stream when the first
    broke: one call has one line, however often it is asked for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._reserved: dict[str, tuple[str, float]] = {}  # by call: its token, and until when
        self._open: dict[str, str] = {}  # by call: the token of its stream

    def reserve(self, call_sid: str) -> str | None:
        """A token for the media stream, or None where all lines are taken by other calls."""
        now = time.monotonic()
        self._reserved = {call: held for call, held in self._reserved.items() if held[1] > now}
        if call_sid not in self._reserved and len({*self._reserved, *self._open} - {call_sid}) >= self._most:
            return None
        token, _ = self._reserved.get(call_sid, (secrets.token_urlsafe(24), 0.0))
        self._reserved[call_sid] = (token, now + START_TIMEOUT_S)
        return token

    def take(self, token: str, call_sid: str) -> None:
        """Turns a reservation into a call. Raises RefusedCall for one that was not made, or is over."""
        reserved, until = self._reserved.get(call_sid, ("", 0.0))
        if not call_sid or not hmac.compare_digest(reserved.encode(), token.encode()):
            raise RefusedCall("its token is not that of a call that came in")
        del self._reserved[call_sid]
        if time.monotonic() > until:
            raise RefusedCall("it comes too late after the webhook")
        self._open[call_sid] = token

    def free(self, call_sid: str, token: str) -> None:
        """A stream is over; the call is, unless another stream has taken its place."""
        if self._open.get(call_sid) == token:
            del self._open[call_sid]


def signature(auth_token: str, url: str, form: Sequence[tuple[str, str]]) -> str:
    """What Twilio puts into X-Twilio-Signature: HMAC-SHA1 over the URL and the sorted form, in base64.

    https://www.twilio.com/docs/usage/security#validating-requests
    """
    signed = url + "".join(name + value for name, value in sorted(form))
    return base64.b64encode(hmac.digest(auth_token.encode(), signed.encode(), "sha1")).decode()


@dataclass(frozen=True)
class Call:
    """What the start message of a media stream tells."""

    call_sid: str
    stream_sid: str
    token: str
    phone: str  # of the caller, as the webhook was told


async def read_start(websocket: WebSocket) -> Call:
    """The first messages of a media stream: `connected`, then `start`.

    Raises:
        RefusedCall: other messages, or none in time.
    """
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            message = json.loads(await websocket.receive_text())
            if message["event"] == "connected":
                message = json.loads(await websocket.receive_text())
        start = message["start"]
        if message["event"] != "start" or start["mediaFormat"]["encoding"] != "audio/x-mulaw":
            raise RefusedCall("no start of a mu-law stream")
        parameters = start["customParameters"]
        call = Call(start["callSid"], start["streamSid"], parameters["token"], parameters["phone"])
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedCall(f"a message that cannot be read: {error!r}") from error
    except TimeoutError as error:
        raise RefusedCall("no start message") from error
    if not all(isinstance(value, str) for value in astuple(call)):
        raise RefusedCall("ids that are no text")
    return call


class Keypad(FrameProcessor):
    """0 ends the call, 1 has the greeting repeated, 2 hands over to a person."""

    def __init__(self, greeting: str, record: CallRecord, transcript: Callable[[], Transcript]) -> None:
        super().__init__()
        self._greeting, self._record, self._transcript = greeting, record, transcript

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        match frame:
            case InputDTMFFrame(button=KeypadEntry.ZERO):
                await self.push_frame(EndWorkerFrame(reason="the caller pressed 0"))
            case InputDTMFFrame(button=KeypadEntry.ONE):
                await self.push_frame(TTSSpeakFrame(self._greeting))
            case InputDTMFFrame(button=KeypadEntry.TWO) if self._record.hand_over():
                await self.push_frame(TTSSpeakFrame(HAND_OVER))
            case BotStoppedSpeakingFrame() if self._record.was_handed_over and self._knows_of_it():
                # The webhook `after` connects the caller, once the stream is over.
                await self.push_frame(EndWorkerFrame(reason="the caller is handed over"))
            case _:
                pass

    def _knows_of_it(self) -> bool:
        """Whether the caller has been told: what the bot said before may end after the key was pressed."""
        turns = self._transcript().turns
        return any(turn.speaker == "bot" and HAND_OVER in turn.text for turn in turns)


def grammar() -> str:
    """All that is heard on a laptop: what there is to be done here, and what the built-in model answers."""
    chat = ["".join(c for c in one.text.lower() if c.isalpha() or c == " ") for one in sample_questions()]
    return f"#JSGF V1.0; grammar calls; public <call> = {' | '.join([*WORK, *chat])} ;"


def asks_for_work(turns: Sequence[Turn]) -> bool:
    """Whether the caller has just said something that is to be looked up."""
    said = next((turn.text.lower() for turn in reversed(turns) if turn.speaker == "user"), "")
    return any(word in said for word in LOOKED_UP_WORDS)


class Desk:
    """What looks things up for one call."""

    def __init__(self, orders: OrderDesk, backend: LanguageModel | None, record: CallRecord) -> None:
        self._orders, self._backend, self._record = orders, backend, record

    async def answer(self, wanted: ReferenceWanted) -> str | None:
        """Returns a sentence for the caller, or None."""
        if self._backend is None:
            return await answer_by_rule(self._orders, self._record, wanted)
        return await self._backend.answer(self._record, wanted)


def conversation(engine: Engine) -> SessionConfig:
    """How the agent talks, and asks for what it does not know."""
    model = engine.model
    asking = AskConfig(
        when=None if model.asks else asks_for_work,
        filler="One moment, please.",
        apology="I could not find that.",
    )
    return SessionConfig(
        greet=True, asking=asking, references="say" if model.references is None else "as_trained"
    )


@dataclass(frozen=True)
class Shop:
    """What all calls share."""

    config: AgentConfig
    engine: Engine
    orders: OrderDesk
    backend: LanguageModel | None


def call_pipeline(
    websocket: WebSocket, call: Call, shop: Shop, record: CallRecord
) -> tuple[PipelineWorker, MoshiLLMService]:
    """The pipeline of one call, and the service in it."""
    config = shop.config
    # When the stream ends the provider asks `after`: no REST call is needed to hang up or to hand over.
    no_rest = TwilioFrameSerializer.InputParams(auto_hang_up=False)
    params = TelephoneParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_out_end_silence_secs=0,
        serializer=TwilioFrameSerializer(call.stream_sid, call.call_sid, params=no_rest),
        session_timeout=config.call_limit_s,
    )
    transport = FastAPIWebsocketTransport(websocket, params)
    llm = MoshiLLMService(
        engine=shop.engine,
        session=conversation(shop.engine),
        on_reference=Desk(shop.orders, shop.backend, record).answer,
        name=call.call_sid,  # by which the log's line about the end of a conversation says which call it was
    )
    keypad = Keypad(config.greeting, record, lambda: llm.transcript)
    steps: list[FrameProcessor] = [transport.input(), keypad, llm]
    if config.transcripts is not None:
        steps.append(TranscriptFile(config.transcripts / f"{call.call_sid}.jsonl"))
    worker = PipelineWorker(
        Pipeline([*steps, transport.output()]),
        params=PipelineParams(audio_in_sample_rate=RATE_HZ, audio_out_sample_rate=RATE_HZ),
        idle_timeout_secs=None,  # the call's limit does it
        processor_unusable_policy=ProcessorUnusablePolicy.END,
        enable_rtvi=False,
    )

    @transport.event_handler("on_client_disconnected")
    async def hung_up(transport: FastAPIWebsocketTransport, websocket: WebSocket) -> None:
        await worker.cancel(reason="the caller hung up")

    @transport.event_handler("on_session_timeout")
    async def too_long(transport: FastAPIWebsocketTransport, websocket: WebSocket) -> None:
        await worker.queue_frame(EndFrame(reason="the call's limit was reached"))

    return worker, llm


@dataclass(frozen=True)
class MediaStream:
    """The audio of a call, as long as it flows."""

    worker: PipelineWorker
    over: asyncio.Event = field(default_factory=asyncio.Event)


async def end_stream(stream: MediaStream | None) -> None:
    """Ends the stream that a call had before, so that its row in the engine is free for the next."""
    if stream is not None:
        logger.warning("a call has opened another media stream: the one before ends")
        await stream.worker.cancel(reason="the call has opened another stream")
        await stream.over.wait()


class PhoneAgent:
    """Answers what the provider asks and sends: its two webhooks, and the audio of each call."""

    def __init__(self, config: AgentConfig, engine: Engine) -> None:
        self._config, self._lines = config, Lines(config.calls)
        self._orders = OrderDesk(config.database)
        backend = None
        if config.backend_url is not None:
            key = os.environ.get("OPENAI_API_KEY", "none")
            backend = LanguageModel(self._orders, config.backend_model, config.backend_url, key)
        self._shop = Shop(config, engine, self._orders, backend)
        self._streams: dict[str, MediaStream] = {}  # by call

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncGenerator[None]:
        """Starts the engine, and closes it at the end."""
        if self._config.transcripts is not None:
            self._config.transcripts.mkdir(parents=True, exist_ok=True)
        async with self._shop.engine:
            yield
        self._orders.close()

    async def voice(self, request: Request) -> Response:
        """The provider's webhook: a call has come in."""
        form = await self._signed_form(request)
        if form is None:
            return Response("wrong signature", status_code=403)
        call_sid = form.get("CallSid", "")
        if not re.fullmatch(r"CA[0-9A-Za-z]{1,64}", call_sid):
            return Response("no CallSid", status_code=400)
        token = self._lines.reserve(call_sid)
        if token is None:
            logger.info(f"{call_sid} hears that the line is busy: every line is taken")
            return _instructions('<Reject reason="busy"/>')
        return _instructions(_connect(self._config.public_url, token, form.get("From", "")))

    async def after(self, request: Request) -> Response:
        """The provider's webhook: the stream of a call is over."""
        form = await self._signed_form(request)
        if form is None:
            return Response("wrong signature", status_code=403)
        outcome = await self._orders.outcome(form.get("CallSid", ""))
        if outcome == "handed over" and self._config.person is not None:
            return _instructions(f"<Dial>{escape(self._config.person)}</Dial>")
        return _instructions("<Hangup/>")

    async def media(self, websocket: WebSocket) -> None:
        """The audio of a call that `voice` has answered."""
        await websocket.accept()
        try:
            call = await read_start(websocket)
            self._lines.take(call.token, call.call_sid)
        except WebSocketDisconnect:
            return
        except RefusedCall as refusal:
            logger.warning(f"a media stream is refused: {refusal}")
            await websocket.close(code=1008)
            return
        await end_stream(self._streams.get(call.call_sid))
        await self._converse(websocket, call)

    async def _converse(self, websocket: WebSocket, call: Call) -> None:
        has_person = self._config.person is not None
        record = CallRecord(call_sid=call.call_sid, phone=call.phone, can_hand_over=has_person)
        await self._orders.begin_call(call.call_sid, call.phone)
        worker, llm = call_pipeline(websocket, call, self._shop, record)
        stream = self._streams[call.call_sid] = MediaStream(worker)
        try:
            runner = WorkerRunner(handle_sigint=False)
            await runner.add_workers(stream.worker)
            await runner.run()
        finally:
            await self._orders.end_call(record, llm.transcript.turns)
            stream.over.set()
            self._lines.free(call.call_sid, call.token)
            if self._streams.get(call.call_sid) is stream:
                del self._streams[call.call_sid]

    async def _signed_form(self, request: Request) -> dict[str, str] | None:
        """What the provider sends, None where it is not the provider."""
        body = await request.body() if _is_small(request) else b""
        form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        url = self._config.public_url + _path_and_query(request)
        expected = signature(self._config.auth_token, url, form)
        given = request.headers.get("x-twilio-signature", "")
        return dict(form) if hmac.compare_digest(expected.encode(), given.encode()) else None


def create_app(config: AgentConfig, engine: Engine) -> FastAPI:
    """The agent as an ASGI application. It starts the engine, and closes it at the end."""
    agent = PhoneAgent(config, engine)
    app = FastAPI(lifespan=agent.lifespan, openapi_url=None)
    app.post("/voice")(agent.voice)
    app.post("/after")(agent.after)
    app.websocket("/media")(agent.media)
    return app


def _is_small(request: Request) -> bool:
    length = request.headers.get("content-length", "")
    return length.isdecimal() and int(length) <= MOST_BODY_BYTES


def _path_and_query(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _instructions(content: str) -> Response:
    return Response(f"<Response>{content}</Response>", media_type="application/xml")


def _connect(public_url: str, token: str, phone: str) -> str:
    url = quoteattr("ws" + public_url.removeprefix("http") + "/media")
    values = {"token": token, "phone": phone}
    parameters = "".join(f'<Parameter name="{k}" value={quoteattr(v)}/>' for k, v in values.items())
    action = quoteattr(public_url + "/after")
    return f"<Connect action={action}><Stream url={url}>{parameters}</Stream></Connect>"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A phone agent on Twilio.")
    parser.add_argument("--public-url", required=True, help="https://host, as the provider reaches it")
    parser.add_argument("--model", default="tiny", help="as for moshi-agent run")
    parser.add_argument("--hear", help="a Kyutai recogniser's name; by default pocketsphinx, with a grammar")
    parser.add_argument("--calls", type=int, default=8, help="at once")
    parser.add_argument("--call-limit", type=int, default=600, help="in seconds")
    parser.add_argument("--database", type=Path, default=Path("orders.db"), help="made if it is missing")
    parser.add_argument("--person", help="telephone number of who takes over, +15551234567")
    parser.add_argument("--backend-url", help="of a language model, OpenAI-compatible: https://HOST/v1")
    parser.add_argument("--backend-model", default="gpt-5-mini", help="its name there")
    parser.add_argument("--transcripts", type=Path, help="folder for a file per call")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    auth_token = os.environ.get("TWILIO_AUTH_TOKEN", "").strip()
    if not auth_token:
        parser.error("TWILIO_AUTH_TOKEN is not set: it is on the first page of Twilio's console")
    if not options.public_url.startswith(("https://", "http://")):
        parser.error("--public-url is the address at which Twilio reaches this program: https://HOST")
    config = AgentConfig(
        public_url=options.public_url.rstrip("/"),
        auth_token=auth_token,
        calls=options.calls,
        call_limit_s=options.call_limit,
        database=options.database,
        person=options.person,
        backend_url=options.backend_url,
        backend_model=options.backend_model,
        transcripts=options.transcripts,
    )
    hear = options.hear or SphinxRecogniser(grammar=grammar())
    engine = Engine.load(options.model, capacity=options.calls, transcriber=hear)
    # A media stream's messages are small, and whoever connects has not shown a token yet.
    uvicorn.run(
        create_app(config, engine),
        host=options.host,
        port=options.port,
        ws_max_size=MOST_BODY_BYTES,
        ws_per_message_deflate=False,
    )


if __name__ == "__main__":
    main()
