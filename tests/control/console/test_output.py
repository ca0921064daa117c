"""What an execution has said becomes pieces that can be shown."""

from __future__ import annotations

import base64
from itertools import count
from typing import Any

from ipybox.control.console.output import Shown
from ipybox.control.records import ExecutionEvent
from tests.control.made import NOW


def _shown(*events: tuple[str, dict[str, Any]], most: int = 1000) -> list[tuple[str, str]]:
    shown = Shown(most)
    for seq, (kind, data) in zip(count(1), events, strict=False):
        shown.add(ExecutionEvent(execution_id="e", seq=seq, kind=kind, data=data, at=NOW))
    return [(each.kind, each.source or each.text) for each in shown.pieces]


def _out(text: str) -> tuple[str, dict[str, Any]]:
    return "stdout", {"text": text}


def test_text_of_one_stream_is_joined_and_colours_are_left_out() -> None:
    assert _shown(_out("a"), _out("b\x1b[1;31mc\x1b[0m\x1b]0;title\x07"), ("stderr", {"text": "d"}), _out("e")) == [
        ("stdout", "abc"),
        ("stderr", "d"),
        ("stdout", "e"),
    ]


def test_a_line_that_is_written_over_is_shown_as_it_ends() -> None:
    assert _shown(_out("1/3"), _out("\r2/3"), _out("\r3/3\nnext\r\n")) == [("stdout", "3/3\nnext\n")]
    assert _shown(_out("1/3\r"), _out("2/3\r")) == [("stdout", "2/3")]
    assert _shown(_out("1/3\r"), _out("2/3\r"), _out("\nnext\r")) == [("stdout", "2/3\nnext")]


def test_pictures_are_shown_before_words_and_html_never() -> None:
    bundle = {"text/html": "<script>", "text/plain": "words", "image/svg+xml": "<svg/>", "image/png": "aGk=\n"}
    svg = base64.b64encode(b"<svg/>").decode()
    assert _shown(("display", {"data": bundle})) == [("image", "data:image/png;base64,aGk=")]
    del bundle["image/png"]
    assert _shown(("display", {"data": bundle})) == [("image", f"data:image/svg+xml;base64,{svg}")]
    del bundle["image/svg+xml"]
    assert _shown(("result", {"data": bundle})) == [("text", "words")]
    del bundle["text/plain"]
    assert _shown(("display", {"data": bundle})) == [("note", "Something of the type text/html, not shown here.")]


def test_what_is_no_base64_is_no_picture() -> None:
    bundle = {"image/png": 'x" onerror="alert(1)', "text/plain": "words"}
    assert _shown(("display", {"data": bundle})) == [("text", "words")]


def test_a_display_is_replaced_by_its_update() -> None:
    first = ("display", {"data": {"text/plain": "old"}, "display_id": "d"})
    update = ("display", {"data": {"text/plain": "new"}, "display_id": "d", "update": True})
    other = ("display", {"data": {"text/plain": "new"}, "display_id": "none", "update": True})
    assert _shown(first, _out("x"), update, other) == [("text", "new"), ("stdout", "x")]


def test_what_is_cleared_is_gone_at_once_or_with_the_next_output() -> None:
    assert _shown(_out("a"), ("clear", {"wait": False})) == []
    assert _shown(_out("a"), ("clear", {"wait": True})) == [("stdout", "a")]
    assert _shown(_out("a"), ("clear", {"wait": True}), _out("b")) == [("stdout", "b")]


def test_an_error_is_its_traceback_once() -> None:
    error = ("error", {"name": "E", "value": "v", "traceback": ["\x1b[0;31mE\x1b[0m", "  at"]})
    assert _shown(error) == [("error", "E\n  at")]
    assert _shown(("stderr", {"text": "before\nE\n  at\n"}), error) == [("stderr", "before\nE\n  at\n")]
    assert _shown(("error", {"name": "E", "value": "v"})) == [("error", "E: v")]


def test_of_too_much_the_last_is_shown() -> None:
    note = ("note", "What came before is too long to be shown here.")
    assert _shown(_out("x" * 30), _out("y" * 5), most=10) == [note, ("stdout", "xxxxxyyyyy")]
    assert _shown(_out("x" * 5), ("stderr", {"text": "y" * 8}), most=10) == [
        note,
        ("stdout", "xx"),
        ("stderr", "y" * 8),
    ]
    assert _shown(("truncated", {"stream": "stdout"}), ("end", {})) == [("note", "There was more stdout than is kept.")]
