"""A form with a file, whose bytes are handed on as they come, and the fields that stand before it. Floor: control."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from ipybox.control.errors import RequestRefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_FIELD = 16 * 1024
"""Bytes of the headers of a part, and of a field."""
_MOST_FIELDS = 20


class UploadForm:
    """Reads a body once: :meth:`begin` to the file, :meth:`chunks` its bytes.

    Attributes:
        fields: What was there before the file.
        file_name: The name that the browser says; any text.
    """

    def __init__(self, request: Request, field: str = "file") -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if kind.lower() != b"multipart/form-data" or not boundary or len(boundary) > 200:
            raise RequestRefusedError("must be multipart/form-data with a boundary", "Content-Type")
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self._request, self._field = request, field
        self._parser = MultipartParser(boundary, self._calls())
        self._body = request.stream()
        self._chunks: deque[bytes] = deque()
        self._header, self._value, self._text = b"", b"", b""
        self._name = ""
        self._in_file = self._has_begun = self._has_ended = self._is_over = False

    async def begin(self) -> None:
        """Reads until the file begins.

        Raises:
            RequestRefusedError: There is none.
        """
        while not self._has_begun:
            if not await self._more():
                raise RequestRefusedError("choose a file first", self._field)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes. Raises :class:`RequestRefusedError` when the body ends in the middle."""
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if not await self._more():
                break
        if not self._has_ended or not self._is_over:
            raise RequestRefusedError("the body ends in the middle", self._field)

    async def _more(self) -> bool:
        try:
            data = await anext(self._body, b"")
            while not data:
                if self._is_over:
                    return False
                data = await anext(self._body)
            self._parser.write(data)
        except StopAsyncIteration:
            return False
        except ClientDisconnect:
            raise RequestRefusedError("the body ends in the middle") from None
        except FormParserError as error:
            raise RequestRefusedError(f"the body is no multipart/form-data: {error}") from error
        return True

    def _calls(self) -> MultipartCallbacks:
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
        self._name, self._header, self._value, self._text = "", b"", b"", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = _joined(self._header, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = _joined(self._value, data[start:end])

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            if self._name == self._field and not self._has_begun:
                self._in_file = self._has_begun = True
                self.file_name = options.get(b"filename", b"").decode("utf-8", "replace")
        self._header, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._chunks.append(data[start:end])
        elif not self._has_begun:
            self._text = _joined(self._text, data[start:end])

    def _part_end(self) -> None:
        if self._in_file:
            self._has_ended, self._in_file = True, False
        elif not self._has_begun:
            if len(self.fields) == _MOST_FIELDS:
                raise RequestRefusedError("the form has too many fields")
            self.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_over = True


def _joined(had: bytes, more: bytes) -> bytes:
    if len(had) + len(more) > _MOST_FIELD:
        raise RequestRefusedError("a part of the form is too large")
    return had + more
