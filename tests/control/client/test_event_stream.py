"""Events out of bytes that come in parts of any size."""

from __future__ import annotations

import json

import pytest

from ipybox.control.client.decoding import UnexpectedAnswerError
from ipybox.control.client.event_stream import EventParser

AT = "2026-01-02T03:04:05.678901Z"


def written(seq: int, text: str, end: str = "\n") -> bytes:
    data = json.dumps({"seq": seq, "kind": "stdout", "data": {"text": text}, "at": AT}, ensure_ascii=False)
    return f"id: {seq}{end}event: stdout{end}data: {data}{end}{end}".encode()


STREAM = (
    b": here\n\n"
    + written(1, "a\u20ac\U0001f600\u2028")
    + b": still here\n\n"
    + written(2, "", "\r\n")
    + written(3, "z")
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_events_are_the_same_in_whatever_parts_they_come(size: int) -> None:
    parser = EventParser()
    events = [event for at in range(0, len(STREAM), size) for event in parser.feed(STREAM[at : at + size])]
    assert [(each.seq, each.text) for each in events] == [(1, "a\u20ac\U0001f600\u2028"), (2, ""), (3, "z")]
    assert all(each.at.tzinfo is not None for each in events)


def test_an_event_that_is_cut_off_is_none() -> None:
    assert list(EventParser().feed(STREAM[:-1])) == list(EventParser().feed(STREAM[: -len(written(3, "z"))]))


@pytest.mark.parametrize("line", [b"data: {\n\n", b"data: 1\n\n", b'data: {"seq": "1"}\n\n', b"data: \xff\n\n"])
def test_what_is_no_event_of_ours_is_refused(line: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError):
        list(EventParser().feed(line))
