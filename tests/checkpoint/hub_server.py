"""A hub on this machine: it answers as the Hugging Face hub does, from folders."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Repositories by name; `gated` ones need the token `good`, and `tagged` is a revision beside `main`."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories = repositories
        self.gated: set[str] = set()
        self.cut_short: set[str] = set()  # files that stop half-way
        self.asked: list[str] = []  # "METHOD path"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer
    revisions: ClassVar[set[str]] = {"main", "tagged", COMMIT}

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        owner, name, _, revision, file = (*self.path.lstrip("/").split("/", 4), "", "", "", "")[:5]
        folder = self.server.repositories.get(f"{owner}/{name}")
        authorised = self.headers.get("authorization") == "Bearer good"
        if folder is None:
            self._refuse(401, "RepoNotFound")
        elif f"{owner}/{name}" in self.server.gated and not authorised:
            self._refuse(403, "GatedRepo")
        elif revision not in self.revisions:
            self._refuse(404, "RevisionNotFound")
        elif not (folder / file).is_file():
            self._refuse(404, "EntryNotFound")
        else:
            self._send((folder / file).read_bytes(), file, with_body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, file: str, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not with_body:
            return
        if file in self.server.cut_short:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)
