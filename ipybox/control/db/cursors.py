"""Cursors: where the next part of a list begins, in letters that go into a URL. Floor: control."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta

from ipybox.control.errors import RequestRefusedError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def cursor(at: datetime, id: str) -> str:
    """Of the last thing on a page."""
    text = json.dumps([(at - _EPOCH) // _MICROSECOND, id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position(cursor: str) -> tuple[datetime, str]:
    """What :func:`cursor` was given.

    Raises:
        RequestRefusedError: It is no cursor.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        at, id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if type(at) is int and isinstance(id, str):
            return _EPOCH + at * _MICROSECOND, id
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        pass
    raise RequestRefusedError("is no cursor of this list; use the next_cursor of the page before", "cursor")
