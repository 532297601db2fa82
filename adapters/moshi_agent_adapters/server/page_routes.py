"""The web page and the sample questions that it plays, as files of the package."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from moshi_agent.questions import sample_questions

_PAGE = Path(__file__).parent / "page"


def page_routes() -> list[BaseRoute]:
    """`/`, `/page/...` and `/questions/...`. The page calls `webrtc_routes`, which have to be beside it."""
    questions = sample_questions()[0].path.parent
    return [
        Route("/", _index, methods=["GET"]),
        Mount("/page", StaticFiles(directory=_PAGE)),
        Mount("/questions", StaticFiles(directory=questions)),
    ]


async def _index(_: Request) -> Response:
    return FileResponse(_PAGE / "index.html", media_type="text/html")
