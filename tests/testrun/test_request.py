"""What a sandbox is asked to do travels as it is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ipybox.testrun.request import ARCHIVE_FD, REPORT_FD, REQUEST_FD, Request

TEXTS = st.lists(st.text(max_size=8) | st.just("\udcff\x00\u2028"), max_size=4).map(tuple)


@given(
    mode=st.sampled_from(["collect", "run", "compile"]),
    framework=st.sampled_from(["pytest", "unittest"]),
    key=st.text("0123456789abcdef", max_size=8),
    arguments=TEXTS,
    ids=TEXTS,
    data_limit=st.integers(0, 2**60),
    plain=TEXTS,
    rewritten=TEXTS,
    has_archive=st.booleans(),
    root=st.text(max_size=8),
)
def test_it_comes_back_as_it_was(**values: Any) -> None:
    request = Request(**values)
    assert Request.from_json(request.to_json()) == request
    assert request.to_json().isascii()


def test_its_secret_is_not_shown() -> None:
    assert "5ec2e7" not in repr(Request(mode="run", key="5ec2e7"))


def test_no_two_things_are_found_in_the_same_place() -> None:
    assert len({0, 1, 2, REQUEST_FD, REPORT_FD, ARCHIVE_FD}) == 6
