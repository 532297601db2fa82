"""A small endpoint of OpenAI's Chat Completions on a port of this machine, whose answers a test decides.

It speaks as well, at `/v1/audio/speech`, with flite's voice.
"""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import soundfile as sf

from moshi_agent.audio.files import read_audio

Json = dict[str, Any]
# A text, a tool and its arguments, a status of HTTP, seconds in which nothing comes, or any body.
Answer = str | tuple[str, Json] | int | float | bytes
Decide = Callable[[Json], Answer]


class LanguageModelEndpoint:
    """Keeps what it was asked: the bodies of the requests, in order."""

    def __init__(self, decide: Decide) -> None:
        self.asked: list[Json] = []
        self.spoken: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/audio/speech":
                    endpoint.spoken.append(body["input"])
                    _speak(self, body)
                    return
                endpoint.asked.append(body)
                answer = decide(body) if self.path == "/v1/chat/completions" else 404
                with suppress(OSError):  # the client has given up
                    _send(self, answer, body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def language_model(decide: Decide) -> Iterator[LanguageModelEndpoint]:
    """An endpoint that answers as `decide` does for the body of a request."""
    endpoint = LanguageModelEndpoint(decide)
    endpoint.start()
    try:
        yield endpoint
    finally:
        endpoint.close()


def by_tool(name: str, arguments: Json, found: Callable[[str], str]) -> Decide:
    """Calls a tool for whatever is asked, and makes a text of its output."""

    def decide(body: Json) -> Answer:
        last = body["messages"][-1]
        return found(str(last["content"])) if last["role"] == "tool" else (name, arguments)

    return decide


def _send(handler: BaseHTTPRequestHandler, answer: Answer, body: Json) -> None:
    if isinstance(answer, float):
        time.sleep(answer)
        return
    status = answer if isinstance(answer, int) else 200
    is_stream = bool(body.get("stream")) and status == 200
    handler.send_response(status)
    handler.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
    handler.end_headers()
    if isinstance(answer, int):
        handler.wfile.write(json.dumps({"error": {"message": "out of order"}}).encode())
    elif isinstance(answer, bytes):
        handler.wfile.write(answer)
    elif is_stream:
        for chunk in (
            {"delta": _message(answer), "finish_reason": None},
            {"delta": {}, "finish_reason": "stop"},
        ):
            handler.wfile.write(
                f"data: {json.dumps(_completion('chat.completion.chunk', chunk))}\n\n".encode()
            )
        handler.wfile.write(b"data: [DONE]\n\n")
    else:
        choice = {"message": {"role": "assistant", **_message(answer)}, "finish_reason": "stop"}
        handler.wfile.write(json.dumps(_completion("chat.completion", choice)).encode())


def _speak(handler: BaseHTTPRequestHandler, body: Json) -> None:
    form = body["response_format"]
    sound = speech(body["input"], form)
    handler.send_response(200)
    handler.send_header("Content-Type", f"audio/{form}")
    handler.end_headers()
    handler.wfile.write(sound)


def speech(text: str, form: str) -> bytes:
    """What flite says, at 24 kHz: 16-bit samples (`pcm`), or a file of that format."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", "slt", "-t", text, "-o", str(file)], check=True)
        samples = read_audio(file)
    if form == "pcm":
        return (samples * 32767).astype("<i2").tobytes()
    written = io.BytesIO()
    sf.write(written, samples, 24_000, format=form.upper())
    return written.getvalue()


def _completion(kind: str, choice: Json) -> Json:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    fields = {"id": "c1", "object": kind, "created": 0, "model": "m", "usage": usage}
    return {**fields, "choices": [{"index": 0, **choice}]}


def _message(answer: str | tuple[str, Json]) -> Json:
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    function = {"name": answer[0], "arguments": json.dumps(answer[1])}
    call = {"index": 0, "id": f"call_{time.monotonic_ns()}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}
