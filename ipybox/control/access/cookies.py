"""Cookies as they go on to the framework: without those that take minutes to read. Floor: control.

Python before 3.11.10 and 3.12.6 takes backslashes out of a quoted cookie in a time that grows with the square of their
number (CVE-2024-7592), and the framework has it do so for each request, whoever sends it. Nothing of ours has any.
"""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]


def harmless_cookies(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers of a request, with no cookie in them that holds a backslash."""
    return [
        (name, _without_escapes(value) if b"\\" in value and name.lower() == b"cookie" else value)
        for name, value in headers
    ]


def _without_escapes(value: bytes) -> bytes:
    return b";".join(each for each in value.split(b";") if b"\\" not in each)
