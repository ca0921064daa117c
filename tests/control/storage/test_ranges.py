"""Parts of files over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.storage.ranges import ByteRange, RangeNotSatisfiableError, http_date, requested_range

SIZES = st.integers(0, 2**63)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=0-100", (0, 100)),
        ("bytes=0-9999999999999999999", (0, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-100", (0, 100)),
        ("bytes=-101", (0, 100)),
        ("BYTES=5-6", (5, 7)),
        (" bytes = 5-6 ", (5, 7)),
        ("bytes=007-8", (7, 9)),
    ],
)
def test_a_range_is_what_the_rfc_says(header: str, expected: tuple[int, int]) -> None:
    found = requested_range(header, 100)

    assert found == ByteRange(*expected, 100)


@pytest.mark.parametrize(
    "header",
    [
        *[
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,5-6",
            "bytes=0-1,",
            "lines=0-1",
            "0-1",
        ],
        "bytes=+1-2",
        "bytes=1--2",
        "bytes=0x1-2",
        "bytes=1_0-20",
        "bytes=٣-٤",
        "bytes=0-1\n",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_no_single_range_gets_the_whole(header: str) -> None:
    assert requested_range(header, 100) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=200-300", 100), ("bytes=-0", 100)])
def test_a_range_without_a_byte_can_not_be_satisfied(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiableError) as raised:
        requested_range(header, size)
    assert raised.value.content_range == "bytes */100"


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-5"])
def test_no_range_of_an_empty_file_can_be_satisfied(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        requested_range(header, 0)


@pytest.mark.parametrize(
    ("if_range", "is_part"),
    [
        (None, True),
        ('"one"', True),
        (' "one" ', False),
        ('"two"', False),
        ('W/"one"', False),
        ("one", False),
        ("", False),
        ("Sat, 21 Nov 2026 10:00:00 GMT", False),
    ],
)
def test_a_part_is_only_of_the_version_that_was_named(if_range: str | None, is_part: bool) -> None:
    found = requested_range("bytes=0-1", 10, if_range=if_range, etag='"one"')

    assert (found is not None) == is_part


def test_another_version_gets_the_whole_though_the_range_is_beyond_it() -> None:
    assert requested_range("bytes=100-", 10, if_range='"old"', etag='"new"') is None


@given(SIZES, st.integers(0, 2**63), st.integers(0, 2**63))
def test_every_range_lies_in_the_file(size: int, first: int, last: int) -> None:
    try:
        found = requested_range(f"bytes={first}-{last}", size)
    except RangeNotSatisfiableError:
        assert first >= size
        return
    if found is None:
        assert last < first
        return
    assert 0 <= found.start == first < found.stop == min(last + 1, size)
    assert found.length == found.stop - found.start > 0
    assert found.content_range == f"bytes {found.start}-{found.stop - 1}/{size}"


@given(SIZES, st.integers(0, 2**63))
def test_every_suffix_is_the_end_of_the_file(size: int, suffix: int) -> None:
    try:
        found = requested_range(f"bytes=-{suffix}", size)
    except RangeNotSatisfiableError:
        assert size == 0 or suffix == 0
        return
    assert found == ByteRange(max(0, size - suffix), size, size)


@given(st.text(), SIZES, st.none() | st.text())
def test_no_header_is_too_odd(header: str, size: int, if_range: str | None) -> None:
    try:
        found = requested_range(header, size, if_range=if_range, etag='"x"')
    except RangeNotSatisfiableError:
        return
    assert found is None or 0 <= found.start < found.stop <= size


def test_a_date_is_as_http_wants_it() -> None:
    moment = datetime(1994, 11, 6, 9, 49, 37, 500, tzinfo=timezone(timedelta(hours=1)))
    assert http_date(moment) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(datetime(9999, 12, 31, tzinfo=UTC)) == "Fri, 31 Dec 9999 00:00:00 GMT"
