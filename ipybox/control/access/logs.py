"""What a server writes about itself: lines for people on a terminal, or JSON. Floor: control.

Everything goes through the loggers of the standard library. Ids of the request, the session and the execution are bound
with ``structlog.contextvars`` and are in each line that is written meanwhile.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from ipybox.control.access.redaction import HIDDEN, is_secret_name, printable, redacted, redacted_line, redacted_text
from ipybox.control.settings import ServerSettings

ROUTED = ("ipybox", "uvicorn", "asyncio", "python_multipart")
"""Loggers that are written this way, with all below them. Others are left as they are."""

_BELOW = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi")  # may have handlers of uvicorn's own

_TRACEBACKS = ("exception", "stack")
_LONGEST_TRACEBACK = 64_000

_Event = MutableMapping[str, Any]


@contextmanager
def logging_to(settings: ServerSettings, stream: TextIO | None = None) -> Iterator[None]:
    """Writes the logs of a server, until it is left; then all loggers are as they were.

    Start uvicorn with ``log_config=None`` and ``access_log=False``, as requests are logged here.

    Args:
        stream: Where to; the standard error output if nothing is said.
    """
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(as_json=is_json(settings, stream), colors=_is_terminal(stream)))
    loggers = [logging.getLogger(name) for name in (*ROUTED, *_BELOW)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    try:
        for each in loggers:
            is_top = each.name in ROUTED
            each.handlers[:] = [handler] if is_top else []
            each.propagate = not is_top
            each.setLevel(settings.log_level if is_top else logging.NOTSET)
            if each.name == "asyncio":
                each.setLevel(max(each.level, logging.WARNING))  # it tells of each poller otherwise
            if each.name == "python_multipart":
                each.setLevel(logging.ERROR)  # what is wrong with a form is told to who sent it
        yield
    finally:
        for each, handlers, level, propagate in before:
            each.handlers[:] = handlers
            each.setLevel(level)
            each.propagate = propagate
        handler.close()


def is_json(settings: ServerSettings, stream: TextIO) -> bool:
    """Whether lines are JSON."""
    if settings.log_format == "auto":
        return not _is_terminal(stream)
    return settings.log_format == "json"


def formatter(*, as_json: bool, colors: bool = False) -> logging.Formatter:
    """What makes a line of a record: never more than one in JSON, and none that somebody else has written in text."""
    renderer: Any
    if as_json:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=True, default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=30
        )
    return _RedactingFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact,
            *(() if as_json else (on_one_line,)),
            renderer,
        ],
    )


def redact(_logger: Any, _method: str, event: _Event) -> _Event:
    """A processor that takes out what belongs in no log."""
    event.pop("color_message", None)  # uvicorn's, a second time with escape sequences
    for name, value in list(event.items()):
        if name in _TRACEBACKS:
            event[name] = redacted_text(_end_of(str(value)))
        else:
            event[name] = HIDDEN if _is_secret(name) else redacted(value)
    return event


def on_one_line(_logger: Any, _method: str, event: _Event) -> _Event:
    """A processor for text: only tracebacks have more than one line, and these are marked."""
    for given, value in list(event.items()):
        name = printable(given)
        if name != given:
            del event[given]
            event[name] = value
        if name in _TRACEBACKS:
            lines = [printable(line) for line in str(value).split("\n")]
            event[name] = "\n".join(f"  | {line}" for line in lines)
        elif isinstance(value, str):
            event[name] = printable(value)
        elif value is not None and not isinstance(value, bool | int | float):
            event[name] = printable(repr(value))
    return event


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        # Once more over the finished line, for what is a secret only together.
        return redacted_line(super().format(record))


def _is_secret(name: str) -> bool:
    return name != "event" and is_secret_name(name)  # `event` is what structlog calls the message


def _end_of(text: str) -> str:
    """The last lines of a long traceback, which say what happened."""
    return text if len(text) <= _LONGEST_TRACEBACK else text[-_LONGEST_TRACEBACK:].partition("\n")[2]


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False
