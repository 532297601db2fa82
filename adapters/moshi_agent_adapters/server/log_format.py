"""How the server's log is written: lines for people, or JSON for programs."""

from __future__ import annotations

import importlib
import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Literal

# The query of a path or an address, and the headers that hold tokens.
_SECRETS = re.compile(r"""((?:/[^\s"'?]*\?)|(?:\bbearer )|(?:\b(?:set-)?cookie: ))[^\s"']+""", re.IGNORECASE)
LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# What every record has, and what uvicorn adds for terminals: all other attributes are the facts of a line.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}


def set_up_log(level: str, form: LogFormat) -> None:
    """Writes records from this level on to stderr, Python's warnings among them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    handler.addFilter(without_secrets)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    importlib.import_module("huggingface_hub.utils.logging")
    logging.getLogger("huggingface_hub").handlers.clear()  # its own, which writes each line once more


def without_secrets(record: logging.LogRecord) -> bool:
    """Takes tokens out of a record, which is written all the same: queries, bearer tokens and cookies."""
    text = record.getMessage()
    cleaned = _SECRETS.sub(r"\1...", text)
    if cleaned != text:
        record.msg, record.args = cleaned, None
    return True


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object on one line.

    Its keys are `time` (ISO 8601, UTC), `level`, `logger` and `message`, then what the record has in `extra`,
    and `exception` with the traceback where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Writes one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _USUAL:
                line.setdefault(name, value)
        exception = self.formatException(record.exc_info) if record.exc_info else record.exc_text
        if exception:
            line["exception"] = exception
        return json.dumps(line, default=str)
