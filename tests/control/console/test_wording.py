"""Times, sizes and addresses in words."""

from __future__ import annotations

import pytest

from ipybox.control.console import wording
from tests.control.made import NOW, later


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "now"), (-59, "59 s ago"), (-61, "1 min ago"), (7300, "in 2 h"), (-3 * 86400, "3 d ago")],
)
def test_how_long_ago_something_was(seconds: float, text: str) -> None:
    assert wording.ago(later(seconds), NOW) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12 ms"), (3, "3 s"), (3.44, "3.4 s"), (125, "2 min 5 s"), (7200, "2 h"), (200000, "2 d 7 h")],
)
def test_how_long_something_took(value: float, text: str) -> None:
    assert wording.seconds(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536 * 1024, "1.5 MiB"), (2**60, "1048576 TiB")]
)
def test_how_large_something_is(count: int, text: str) -> None:
    assert wording.size(count) == text


def test_a_part_of_a_url_is_encoded_as_a_whole() -> None:
    assert wording.url("sessions", "../x?y#z", path='a&b"c\n', empty="", none=None) == (
        "/console/sessions/..%2Fx%3Fy%23z?path=a%26b%22c%0A"
    )
