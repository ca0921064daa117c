"""``Range`` and ``If-Range`` of a download, as RFC 9110 has them (13.1.5 and 14). Pure functions. Floor: control.

One range is served. Who asks for several gets the whole, which every client has to understand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))[ \t]*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from ``start`` to before ``stop`` of ``size``; at least one."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        """For ``Content-Length``."""
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        """For ``Content-Range`` of an answer 206."""
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


class RangeNotSatisfiableError(Exception):
    """No byte of the file is in the range that was asked for: answer 416.

    Attributes:
        content_range: For ``Content-Range`` of that answer.
    """

    def __init__(self, size: int) -> None:
        self.content_range = f"bytes */{size}"
        super().__init__(f"the file has {size} bytes")


def requested_range(header: str | None, size: int, *, if_range: str | None = None, etag: str = "") -> ByteRange | None:
    """What part of a file of ``size`` bytes is to be sent; None for the whole, with 200.

    The whole is sent for what is no range of bytes, or several, or when ``If-Range`` names another version.

    Args:
        header: ``Range``; None if there is none.
        if_range: ``If-Range``. A date there is never taken for this version's: code can set the times of its files.
        etag: Of the file, strong, with quotation marks.

    Raises:
        RangeNotSatisfiableError: There is nothing in that range.
    """
    if header is None or not _is_same(if_range, etag):
        return None
    found = _RANGE.fullmatch(header.strip(" \t"))
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, stop = max(size - int(suffix), 0), size
        if int(suffix) == 0:
            raise RangeNotSatisfiableError(size)
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None  # no range at all
    if start >= size:
        raise RangeNotSatisfiableError(size)
    return ByteRange(start, stop, size)


def http_date(moment: datetime) -> str:
    """For ``Last-Modified``."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def _is_same(if_range: str | None, etag: str) -> bool:
    return if_range is None or (if_range.startswith('"') and if_range.strip(" \t") == etag)
