"""Where HTTP bodies end, and how the head of a response is passed on. Floor: sandbox.

No I/O. Strict for what comes from the sandbox; for responses, what can't be told is "until the server closes".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_LONGEST_LINE = 8192
_LARGEST_TRAILER = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate"})


class FramingError(ValueError):
    """A body whose end can't be told for sure."""


class _Part(Enum):
    SIZE = 1
    DATA = 2
    DATA_END = 3
    TRAILER = 4
    DONE = 5


class ChunkedBody:
    """Finds the end of a chunked body in bytes that are passed on as they are."""

    def __init__(self) -> None:
        self._part = _Part.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailer_size = 0

    @property
    def done(self) -> bool:
        """Whether the whole body has been seen."""
        return self._part is _Part.DONE

    def feed(self, data: bytes) -> int:
        """Take more bytes; how many of them belong to the body.

        Raises:
            FramingError: This is not how chunks are written.
        """
        at = 0
        while at < len(data) and self._part is not _Part.DONE:
            if self._part is _Part.DATA:
                taken = min(self._left, len(data) - at)
                at += taken
                self._left -= taken
                if not self._left:
                    self._part = _Part.DATA_END
                continue
            newline = data.find(b"\n", at)
            end = len(data) if newline < 0 else newline + 1
            self._line += data[at:end]
            at = end
            if len(self._line) > _LONGEST_LINE:
                raise FramingError("line too long in a chunked body")
            if newline >= 0:
                if not self._line.endswith(b"\r\n"):
                    raise FramingError("bare line feed in a chunked body")
                self._take_line(bytes(self._line[:-2]))
                self._line.clear()
        return at

    def _take_line(self, line: bytes) -> None:
        if self._part is _Part.SIZE:
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise FramingError("malformed chunk size")
            self._left = int(size[1], 16)
            self._part = _Part.DATA if self._left else _Part.TRAILER
        elif self._part is _Part.DATA_END:
            if line:
                raise FramingError("chunk longer than its size")
            self._part = _Part.SIZE
        elif line:
            self._trailer_size += len(line)
            if self._trailer_size > _LARGEST_TRAILER or not _TRAILER.fullmatch(line):
                raise FramingError("malformed trailer")
        else:
            self._part = _Part.DONE


class SizedBody:
    """Finds the end of a body of a known size in bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def done(self) -> bool:
        """Whether the whole body has been seen."""
        return self._left == 0

    def feed(self, data: bytes) -> int:
        """Take more bytes; how many of them belong to the body."""
        taken = min(self._left, len(data))
        self._left -= taken
        return taken


class EndlessBody:
    """A body that ends when the connection does."""

    done = False

    def feed(self, data: bytes) -> int:
        """Take more bytes; all of them belong to the body."""
        return len(data)


Body = ChunkedBody | SizedBody | EndlessBody


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response, ready to be passed on.

    Attributes:
        status: The status code.
        head: What the client gets: without what was meant for the proxy, and saying that the connection closes.
        body: What tells where the body ends.
    """

    status: int
    head: bytes
    body: Body

    @property
    def interim(self) -> bool:
        """Whether another response follows, as after ``100 Continue``."""
        return 100 <= self.status < 200 and self.status != 101


def parse_response_head(head: bytes, *, method: str) -> ResponseHead:
    """Read the head of a response to a request with ``method``; ``head`` ends with the empty line.

    Raises:
        FramingError: This is no HTTP/1 response.
    """
    lines = [line.rstrip(b"\r") for line in head.split(b"\n")]
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise FramingError("not an HTTP/1 response")
    status = int(match[1])
    fields = [(line.partition(b":")[0].strip().lower(), line) for line in lines[1:] if line]
    sizes = {line.partition(b":")[2].strip() for name, line in fields if name == b"content-length"}
    codings = [line.partition(b":")[2].strip().lower() for name, line in fields if name == b"transfer-encoding"]
    body: Body
    if method == "HEAD" or status in (204, 304) or status < 200:
        body = SizedBody(0)
    elif codings:
        body = ChunkedBody() if codings == [b"chunked"] else EndlessBody()
        fields = [(name, line) for name, line in fields if name != b"content-length"]
    elif len(sizes) == 1 and (size := sizes.pop()).isdigit() and len(size) < 20:
        body = SizedBody(int(size))
    else:
        body = EndlessBody()
    if status == 101:
        kept = [line for _, line in fields]
    else:
        kept = [line for name, line in fields if name not in _HOP_BY_HOP]
        if status >= 200:
            kept.append(b"Connection: close")
    return ResponseHead(status, b"\r\n".join([lines[0], *kept, b"", b""]), body)
