"""The one file in a multipart body, as it arrives. Floor: control.

Nothing is kept: what is not the file is dropped, and the file's bytes are handed on as they come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ipybox.control.errors import RequestRefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_HEADERS = 16 * 1024


class _Parts:
    """Calls of the parser, as they come."""

    def __init__(self, field: str) -> None:
        self._field = field.encode()
        self._name, self._value = b"", b""
        self._size = 0
        self._is_wanted = False
        self.has_begun = self.has_ended = self.is_over = False
        self.chunks: deque[bytes] = deque()

    def calls(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._is_wanted, self._name, self._value, self._size = False, b"", b"", 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._counted(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > _HEADERS:
            raise RequestRefusedError("the headers of a part are too large")
        return data

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if options.get(b"name") == self._field and not self.has_begun:
                self._is_wanted = self.has_begun = True
        self._name, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted:
            self.chunks.append(data[start:end])

    def _part_end(self) -> None:
        if self._is_wanted:
            self.has_ended, self._is_wanted = True, False

    def _end(self) -> None:
        self.is_over = True


async def file_of(content_type: str, body: AsyncIterable[bytes], field: str = "file") -> AsyncIterator[bytes]:
    """The bytes of the file in the named field.

    Raises:
        RequestRefusedError: The body is no such one, or it ends in the middle, or there is no such field.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind.lower() != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise RequestRefusedError("must be multipart/form-data with a boundary", "Content-Type")
    parts = _Parts(field)
    parser = MultipartParser(boundary, parts.calls())
    async for data in body:
        try:
            parser.write(data)
        except FormParserError as error:
            raise RequestRefusedError(f"the body is no multipart/form-data: {error}") from error
        while parts.chunks:
            yield parts.chunks.popleft()
    if not parts.has_begun:
        raise RequestRefusedError(f"there is no file in it: a part with the name {field!r} is needed", field)
    if not parts.has_ended or not parts.is_over:
        raise RequestRefusedError("the body ends in the middle", field)
