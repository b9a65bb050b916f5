"""How log lines are written: as text, or one JSON object a line for those who collect them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal

__all__ = ["LogFormat", "set_up_logging"]

LogFormat = Literal["text", "json"]
_OWN: Final = frozenset(vars(logging.makeLogRecord({})))  # what every record has
_REQUEST_LOGGERS: Final = ("enginebench_openai.gateway", "enginebench_openai.served")


def set_up_logging(style: LogFormat, *, requests: bool) -> None:
    """Warnings and errors of everything, and requests if asked for, go to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(handlers=[handler], force=True)
    for name in _REQUEST_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if requests else logging.WARNING)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {key}={value!r}" for key, value in _facts(record).items())
        return super().formatMessage(record) + facts


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "at": at,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`."""
    return {
        key: value
        for key, value in vars(record).items()
        if key not in _OWN and key not in ("message", "asctime")
    }
