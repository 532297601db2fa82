"""`/v1/audio/transcriptions` and `/v1/realtime` of a server whose model is a recogniser: OpenAI's forms."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from moshi_agent import (
    AudioError,
    EngineFull,
    EngineUnhealthy,
    MoshiAgentError,
    Session,
    SessionConfig,
    UserText,
)
from moshi_agent_adapters.call_log import CallLog
from moshi_agent_adapters.protocols.call_protocol import ProtocolError
from moshi_agent_adapters.protocols.realtime import RealtimeServer
from moshi_agent_adapters.protocols.realtime_transcription import RealtimeTranscriptionProtocol
from moshi_agent_adapters.protocols.transcript_forms import WholeTranscript
from moshi_agent_adapters.protocols.transcription_models import check_transcription_model
from moshi_agent_adapters.protocols.turn_text import TurnText
from moshi_agent_adapters.server.call import hold_call
from moshi_agent_adapters.server.file_hearing import FileHearing
from moshi_agent_adapters.server.limits import TooMany
from moshi_agent_adapters.server.openai_calls import new_session
from moshi_agent_adapters.server.paths import error_response
from moshi_agent_adapters.server.server import Server
from moshi_agent_adapters.server.upload import Upload, received

_log = logging.getLogger("moshi_agent.server")


def routes(server: Server) -> Sequence[BaseRoute]:
    """The endpoints, for an application."""
    config = server.config

    async def realtime(websocket: WebSocket) -> None:
        session_id, expires_at = new_session(config)
        known = RealtimeServer(model=config.model_name, session_id=session_id, expires_at=expires_at)
        protocol = RealtimeTranscriptionProtocol(known, websocket.query_params.get("model"))
        await hold_call(websocket, protocol, server)

    return [
        Route("/v1/audio/transcriptions", Transcriptions(server), methods=["POST"]),
        WebSocketRoute("/v1/realtime", realtime),
    ]


class Transcriptions:
    """Writes down recordings: an ASGI application. What a request takes is free once it is over."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        request, log, why = Request(scope, receive), CallLog(over="transcriptions"), "written down"
        try:
            async with self._asked(request) as upload, self._session(request, log) as session:
                response = await self._answer(request, upload, session)
                await response(scope, receive, send)
        except ClientDisconnect:
            why = "the client has left"
        except _REFUSALS as error:
            why = str(error)
            await _refusal(error)(scope, receive, send)
        except BaseException:
            why = "a fault of the server"
            raise
        finally:
            line, facts = log.ended(why)
            _log.info(line, extra=facts)

    @asynccontextmanager
    async def _asked(self, request: Request) -> AsyncGenerator[Upload]:
        config = self._server.config
        async with received(request, config.longest_upload) as upload:
            check_transcription_model(upload.model, config.model_name)
            yield upload

    @asynccontextmanager
    async def _session(self, request: Request, log: CallLog) -> AsyncGenerator[Session]:
        address = request.client.host if request.client else ""
        await self._server.addresses.enter(address, time.monotonic())
        try:
            session = await self._server.open(SessionConfig(live=False))
            log.session = session.key
            try:
                yield session
            finally:
                session.close()
        finally:
            self._server.addresses.leave(address)

    async def _answer(self, request: Request, upload: Upload, session: Session) -> Response:
        if upload.stream:
            return StreamingResponse(_pieces(upload, session), media_type="text/event-stream")
        longest_s = self._server.config.longest_call_s
        try:
            async with asyncio.timeout(longest_s):
                return await _unless_left(request, _whole(upload, session))
        except TimeoutError:
            message = f"the recording is not written down within {longest_s:g} s; accepted: a shorter one"
            raise HTTPException(413, message) from None


async def _whole(upload: Upload, session: Session) -> Response:
    transcript, hearing = WholeTranscript(), FileHearing(upload.file, upload.name)
    async for event in hearing.events(session):
        transcript.add(event)
    transcript.audio_s = hearing.audio_s
    match upload.form:
        case "json":
            return Response(transcript.as_json(), media_type="application/json")
        case "verbose_json":
            body = transcript.as_verbose_json(upload.language, segments=upload.segments, words=upload.words)
            return Response(body, media_type="application/json")
        case _:
            return PlainTextResponse(transcript.as_text(upload.form))


async def _pieces(upload: Upload, session: Session) -> AsyncGenerator[str]:
    """The transcript as server-sent events, while it is written."""
    transcript, said = WholeTranscript(), TurnText()
    try:
        async for event in FileHearing(upload.file, upload.name).events(session):
            transcript.add(event)
            if isinstance(event, UserText) and (piece := said.add(event.text)):
                yield _sent({"type": "transcript.text.delta", "delta": piece})
    except MoshiAgentError as error:
        yield _sent({"error": {"type": "server_error", "code": "failed", "message": str(error)}})
        return
    yield _sent({"type": "transcript.text.done", "text": transcript.text})


def _sent(event: dict[str, object]) -> str:
    return f"data: {json.dumps(event)}\n\n"


async def _unless_left(request: Request, work: Coroutine[None, None, Response]) -> Response:
    """Does the work. Raises ClientDisconnect as soon as nobody waits for it any more."""
    working, leaving = asyncio.create_task(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


_REFUSALS = (HTTPException, ProtocolError, AudioError, TooMany, EngineFull, EngineUnhealthy)


def _refusal(error: Exception) -> Response:
    """The answer that says what was wrong."""
    match error:
        case HTTPException():
            return error_response(error.status_code, error.detail)
        case ProtocolError():
            return error_response(404, str(error))
        case TooMany():
            return error_response(429, str(error))
        case EngineFull() | EngineUnhealthy():
            return error_response(503, str(error))
        case _:
            return error_response(400, str(error))
