"""A recording that is sent to be written down: a form with a file, of bounded size, kept on the disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from moshi_agent_adapters.protocols.transcript_forms import TranscriptForm

_FORM = "multipart/form-data"
_MOST_FIELDS = 100


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Holds what a client asks to be written down, and in which form."""

    file: Path
    name: str  # of the file, as the client has it
    model: str
    form: TranscriptForm
    language: str  # as the client names it
    segments: bool  # times of utterances, and of words, in the form `verbose_json`
    words: bool
    stream: bool  # pieces are sent as they are written


@asynccontextmanager
async def received(request: Request, longest: int) -> AsyncGenerator[Upload]:
    """Reads a request. Its file is there as long as the context is.

    Args:
        longest: bytes of its body.

    Raises:
        HTTPException: 400 for fields that are missing or wrong, 413 for more bytes, 415 for another body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise HTTPException(415, f"a body of type {kind[:60]!r}; accepted: {_FORM}")
    bounded = _BoundedRequest(request, longest)
    async with bounded.form(max_files=1, max_fields=_MOST_FIELDS) as form:
        sent = form.get("file")
        if not isinstance(sent, UploadFile):
            raise HTTPException(400, "file is missing; accepted: an audio file")
        with TemporaryDirectory(prefix="moshi-agent-") as folder:
            name = Path(sent.filename or "").name or "recording"
            file = Path(folder) / f"recording{Path(name).suffix[:8]}"
            await asyncio.to_thread(_copy, sent, file)
            yield _read(form, file, name)


class _BoundedRequest(Request):
    """A request whose body is not read any further than so many bytes."""

    def __init__(self, request: Request, longest: int) -> None:
        super().__init__(request.scope, request.receive)
        self._longest = longest

    async def stream(self) -> AsyncGenerator[bytes]:
        size = 0
        async for part in super().stream():
            size += len(part)
            if size > self._longest:
                raise HTTPException(413, f"more than {self._longest} bytes; accepted: a shorter recording")
            yield part


def _copy(sent: UploadFile, file: Path) -> None:
    with file.open("wb") as copy:
        shutil.copyfileobj(sent.file, copy)


def _read(form: FormData, file: Path, name: str) -> Upload:
    wanted, stream = _transcript_form(form), _text(form, "stream", "false")
    if stream not in ("true", "false"):
        raise HTTPException(400, f"stream {stream[:40]!r}; accepted: true, false")
    if stream == "true" and wanted != "json":
        raise HTTPException(400, f"stream with response_format {wanted!r}; accepted: json")
    times = set(form.getlist("timestamp_granularities[]"))
    if times - {"word", "segment"}:
        raise HTTPException(400, "timestamp_granularities; accepted: word, segment")
    return Upload(
        file=file,
        name=name,
        model=_text(form, "model"),
        form=wanted,
        language=_text(form, "language", "unknown"),
        segments=not times or "segment" in times,
        words="word" in times,
        stream=stream == "true",
    )


def _transcript_form(fields: FormData) -> TranscriptForm:
    wanted = _text(fields, "response_format", "json")
    for form in get_args(TranscriptForm):
        if form == wanted:
            return form
    accepted = ", ".join(get_args(TranscriptForm))
    raise HTTPException(400, f"response_format {wanted[:40]!r}; accepted: {accepted}")


def _text(form: FormData, name: str, default: str | None = None) -> str:
    value = form.get(name, default)
    if not isinstance(value, str) or not value:
        raise HTTPException(400, f"{name} is missing; accepted: text")
    return value
