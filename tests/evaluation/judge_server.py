"""A server with OpenAI's chat completions, whose judgements are a rule."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.evaluation.benchmark_folders import behavior_of, rating_of


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("Authorization"), asked))
        told = server.told.pop(0) if server.told else _judgement(asked["messages"][1]["content"])
        if told is None:
            self.send_error(503)
            return
        body = json.dumps({"choices": [{"message": {"content": told}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _judgement(text: str) -> str:
    if text.startswith("{"):
        return json.dumps({"behaviour": [behavior_of(len(json.loads(text)["output_noisy"]))]})
    reply = text.split("Assistant, after that: ")[1]
    return f"Analysis: so it is.\nI would rate the AI's response as {rating_of(reply)}"


@contextmanager
def judge_server(*told: str | None) -> Iterator[Any]:
    """Serves at `url`. What was asked is in `asked`; `told` is answered first, None being a failure."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    server.asked, server.told = [], list(told)
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
