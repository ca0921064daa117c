"""Answers made from records."""

from __future__ import annotations

import json

import pytest

from ipybox.control.api.answers import EventAnswer, ExecutionAnswer, SessionAnswer, TemplateAnswer, size_text
from ipybox.control.api.streams import encoded
from ipybox.control.records import ExecutionEvent
from tests.control.made import NOW, a_session, a_template, an_execution


@pytest.mark.parametrize(
    ("size", "text"),
    [(2**30, "1Gi"), (512 * 2**20, "512Mi"), (1536 * 2**20, "1536Mi"), (2**20, "1Mi"), (3 * 2**30, "3Gi")],
)
def test_a_size_is_told_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    "text", ["line\nbreak", "id: 2\n\ndata: forged", "\r\r\n", "\u2028\u2029", "\ud800", "🎉", "\0"]
)
def test_an_event_in_a_stream_is_three_lines_whatever_it_says(text: str) -> None:
    event = ExecutionEvent(execution_id="e", seq=7, kind="stdout", data={"text": text}, at=NOW)
    lines = encoded(event).decode("ascii").split("\n")
    assert lines[0] == "id: 7"
    assert lines[1] == "event: stdout"
    assert json.loads(lines[2].removeprefix("data: "))["data"]["text"] == text
    assert lines[3:] == ["", ""]


def test_answers_have_what_the_records_have() -> None:
    assert TemplateAnswer.of(a_template("t")).id == "t"
    assert SessionAnswer.of(a_session("s")).id == "s"
    execution = ExecutionAnswer.of(an_execution("e"), ("out", "err"))
    assert (execution.id, execution.execution_id, execution.stdout, execution.stderr) == ("e", "e", "out", "err")
    event = ExecutionEvent(execution_id="e", seq=1, kind="end", data={"status": "completed"}, at=NOW)
    assert EventAnswer.of(event).model_dump()["seq"] == 1
