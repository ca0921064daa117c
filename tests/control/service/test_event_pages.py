"""Who reads events holds few of them in memory where they are large, and asks seldom where they are small."""

from __future__ import annotations

from typing import Any

from ipybox.control.json_text import JsonText
from ipybox.control.records import ExecutionEvent
from ipybox.control.service.event_log import FIRST_PAGE, next_page
from tests.control.made import NOW


def events(number: int, data: Any) -> tuple[ExecutionEvent, ...]:
    return tuple(
        ExecutionEvent(execution_id="e", seq=seq, kind="stdout", data=data, at=NOW) for seq in range(1, number + 1)
    )


def test_pages_of_small_events_grow_and_those_of_large_ones_do_not() -> None:
    page = FIRST_PAGE
    for _ in range(10):
        page = next_page(page, events(page, {"text": "hello"}))
    assert page == 500
    assert next_page(page, events(page, {"text": "x" * 32_768})) == FIRST_PAGE
    assert next_page(FIRST_PAGE, events(FIRST_PAGE, JsonText("[" + "1," * 50_000 + "1]"))) == FIRST_PAGE
    assert next_page(page, ()) == FIRST_PAGE
