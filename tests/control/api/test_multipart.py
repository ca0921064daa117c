"""The file in a form, however its bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.control.api.multipart import file_of
from ipybox.control.errors import RequestRefusedError

TYPE = "multipart/form-data; boundary=XX"


def form(*parts: tuple[str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    lines = b""
    for name, content in parts:
        lines += b'--XX\r\nContent-Disposition: form-data; name="' + name.encode() + b'"; filename="f"\r\n'
        lines += b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n"
    return lines + end


def read(body: bytes, content_type: str = TYPE, size: int = 65536) -> bytes:
    async def arriving() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    async def whole() -> bytes:
        return b"".join([chunk async for chunk in file_of(content_type, arriving())])

    return asyncio.run(whole())


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), size=st.integers(1, 80))
def test_a_file_is_its_bytes_wherever_they_are_cut(content: bytes, size: int) -> None:
    if b"\r\n--XX" in content:
        return
    assert read(form(("file", content)), size=size) == content


@pytest.mark.parametrize("content", [b"", b"\r\n", b"--XX", b"\r\n--X", b"--XX--", b"\r\n--Xx\r\n", b"\0" * 1000])
@pytest.mark.parametrize("size", [1, 7, 65536])
def test_what_looks_like_a_boundary_is_content(content: bytes, size: int) -> None:
    assert read(form(("file", content)), size=size) == content


def test_other_fields_are_dropped_and_the_first_file_counts() -> None:
    parts = (("before", b"1"), ("file", b"first"), ("file", b"second"), ("after", b"2"))
    assert read(form(*parts)) == b"first"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=XX",
        'multipart/form-data; boundary="XX"',
        "Multipart/Form-Data; charset=utf-8; boundary=XX",
    ],
)
def test_a_content_type_may_be_written_in_other_ways(content_type: str) -> None:
    assert read(form(("file", b"x")), content_type) == b"x"


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "multipart/mixed; boundary=XX",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 201,
    ],
)
def test_what_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(RequestRefusedError, match="Content-Type"):
        read(form(("file", b"x")), content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"--XX--\r\n",
        form(("other", b"x")),
        form(("file", b"x"), end=b""),
        form(("file", b"x"))[:-10],
        form(("file", b"x"), end=b"--XX\r\n"),
        b"--XX\r\n\r\nx\r\n--XX--\r\n",
        b"--XX\r\nContent-Disposition: form-data; name=file\r\n",
    ],
    ids=lambda body: ascii(body[-24:]),
)
def test_a_form_that_is_cut_off_or_has_no_file_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefusedError):
        read(body)


def test_headers_of_a_part_have_a_limit() -> None:
    many = b"--XX\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(100)) + b"\r\nx\r\n--XX--\r\n"
    with pytest.raises(RequestRefusedError):
        read(many)
