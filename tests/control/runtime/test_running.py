"""What an agent says is looked at as what a stranger says: events and outcomes are well-formed whatever comes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.control.json_text import JsonText
from ipybox.control.runtime.connection import GONE, Connection, ConnectionEndedError
from ipybox.control.runtime.host import Ending, RunRequest
from ipybox.control.runtime.running import RunningExecution
from ipybox.control.states import ExecutionKind, ExecutionStatus, Reason
from ipybox.session.frames import FrameError, frame
from tests.control.runtime.boxes import eventually

LIMIT = 1000
Events = list[tuple[str, Mapping[str, Any]]]


def execution(events: Events) -> RunningExecution:
    request = RunRequest(execution_id="x", kind=ExecutionKind.HANDLER, code="", timeout=5)
    running = RunningExecution(request, lambda kind, data: events.append((kind, data)), LIMIT)
    running.begin()
    return running


def end(**changes: Any) -> dict[str, Any]:
    usage = {"cpu_ms": 1.5, "peak_bytes": 1024 * 1024, "read_bytes": 1, "write_bytes": 2}
    head = {"is": "end", "code": 0, "stopped": "", "has_value": False, "state_lost": False, "usage": usage}
    return {**head, **changes}


@pytest.mark.asyncio
async def test_more_output_than_is_wanted_is_cut_here_as_well() -> None:
    events: Events = []
    running = execution(events)
    for _ in range(10):
        running.take({"is": "stdout"}, b"x" * 300)
    running.take({"is": "stderr"}, b"y")
    running.take(end(), b"")
    assert sum(len(data["text"]) for kind, data in events if kind == "stdout") == LIMIT
    assert [data for kind, data in events if kind == "truncated"] == [{"stream": "stdout"}]
    assert running.done.result().truncated
    assert events[-1] == ("stderr", {"text": "y"})


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", range(1, 8))
async def test_characters_that_come_in_parts_are_put_together(cut: int) -> None:
    events: Events = []
    running = execution(events)
    data = "é😀é".encode()
    running.take({"is": "stdout"}, data[:cut])
    running.take({"is": "stdout"}, data[cut:] + b"\xf0\x9f")
    running.take(end(), b"")
    text = "".join(data["text"] for _, data in events)
    assert text == "é😀é�"


@pytest.mark.asyncio
async def test_what_is_shown_is_bounded_and_of_the_right_types() -> None:
    events: Events = []
    running = execution(events)
    good = {"data": {"text/plain": "x"}, "metadata": {}, "display_id": None, "update": False}
    running.take({"is": "display"}, json.dumps(good).encode())
    assert events == [("display", good)]
    running.take({"is": "error"}, b'{"name": "\\ud800", "value": "", "traceback": []}')
    assert events[-1][1]["name"] == "�"
    bad: tuple[Any, ...] = (
        {**good, "data": []},
        {**good, "metadata": 1},
        {**good, "update": 0},
        [],
        "x",
        {**good, "display_id": 3},
    )
    for each in bad:
        with pytest.raises(FrameError):
            running.take({"is": "display"}, json.dumps(each).encode())
    for kind, data in (("error", {"name": 1}), ("clear", {}), ("error", {"name": "", "value": "", "traceback": [1]})):
        with pytest.raises(FrameError):
            running.take({"is": kind}, json.dumps(data).encode())
    running.take({"is": "display"}, json.dumps({**good, "data": {"x": "y" * LIMIT}}).encode())
    assert events[-1] == ("truncated", {"stream": "display"})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("head", "body"),
    [
        ({"is": "end"}, b""),
        (end(code="0"), b""),
        (end(code=None), b""),
        (end(has_value=1), b""),
        (end(usage=[]), b""),
        (end(state_lost="no"), b""),
        ({"is": "nonsense"}, b""),
        ({}, b""),
        ({"is": ["stdout"]}, b""),
        ({"is": "began", "pid": "1"}, b""),
        ({"is": "truncated"}, b""),
        ({"is": "display"}, b"{"),
        ({"is": "display"}, b"[" * 500),
    ],
)
async def test_nonsense_is_an_error_of_the_frame(head: dict[str, Any], body: bytes) -> None:
    with pytest.raises(FrameError):
        execution([]).take(head, body)


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"1" * 5000, b"[" * 500 + b"]" * 500, b'"' + b"x" * 2000 + b'"'])
async def test_a_value_that_is_none_is_a_bad_result(body: bytes) -> None:
    running = execution([])
    running.take(end(has_value=True), body)
    outcome = running.done.result()
    assert (outcome.status, outcome.reason) == (ExecutionStatus.FAILED, Reason.BAD_RESULT)
    assert not outcome.has_return_value


def large(limit: int = 10_000_000) -> tuple[RunningExecution, Events]:
    events: Events = []
    request = RunRequest(execution_id="x", kind=ExecutionKind.HANDLER, code="", timeout=5)
    running = RunningExecution(request, lambda kind, data: events.append((kind, data)), limit)
    running.begin()
    return running, events


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["[" + "[]," * 500_000 + "1]", '"' + "x" * 1_000_000 + '"'])
async def test_a_large_value_is_looked_at_in_pieces_and_stays_the_text_that_it_was(text: str) -> None:
    running, _ = large()
    rest = running.take(end(has_value=True), text.encode())
    assert rest is not None
    assert running.has_ended
    assert sum(1 for _ in rest) > 5
    assert running.done.result().return_value == JsonText(text)


@pytest.mark.asyncio
async def test_a_large_value_that_is_none_is_a_bad_result() -> None:
    for text in ("[" + "[]," * 50_000, "[" * 201 + "1," * 50_000 + "1" + "]" * 201):
        running, _ = large()
        for _ in running.take(end(has_value=True), text.encode()) or ():
            assert not running.done.done()
        assert running.done.result().reason is Reason.BAD_RESULT


@pytest.mark.asyncio
async def test_the_end_of_a_sandbox_is_not_undone_by_what_is_still_looked_at() -> None:
    running, _ = large()
    rest = running.take(end(has_value=True), b"[" + b"1," * 100_000 + b"1]")
    running.give_up(Ending(Reason.OUT_OF_MEMORY, "it was large"))
    assert sum(1 for _ in rest or ()) > 0
    assert running.done.result().reason is Reason.OUT_OF_MEMORY


@pytest.mark.asyncio
async def test_what_is_shown_and_large_is_looked_at_in_pieces_and_stays_text_where_it_is() -> None:
    running, events = large()
    many, text = "[" + "[]," * 50_000 + "1]", "x" * 200_000
    bundle = f'{{"application/json": {many}, "text/plain": "{text}", "a": 1}}'
    body = f'{{"data": {bundle},\n"metadata": {{}}, "display_id": null, "update": false}}'
    rest = running.take({"is": "display"}, body.encode())
    assert rest is not None
    assert not events
    assert sum(1 for _ in rest) > 3
    shown = {"application/json": JsonText(many), "text/plain": text, "a": 1}
    assert events == [("display", {"data": shown, "metadata": {}, "display_id": None, "update": False})]
    for bad in ("[]", "[[]]", '{"data": 1}', f'{{"data": {bundle}}}', '{"data": {"a": 1,}}'):
        with pytest.raises(FrameError):
            for _ in running.take({"is": "display"}, bad.encode() + b" " * 100_000) or ():
                pass


@pytest.mark.asyncio
async def test_numbers_that_can_not_be_are_not_there() -> None:
    running = execution([])
    running.take(end(usage={"cpu_ms": -1, "peak_bytes": "x", "read_bytes": float("nan"), "write_bytes": True}), b"")
    metrics = running.done.result().metrics
    assert (metrics.cpu_time_ms, metrics.peak_memory_mb, metrics.io_read_bytes) == (None, None, None)
    assert metrics.io_write_bytes is None


@pytest.mark.asyncio
async def test_a_failure_returns_nothing_though_a_value_was_told() -> None:
    running = execution([])
    running.take(end(has_value=True, code=3), b"1")
    outcome = running.done.result()
    assert (outcome.status, outcome.has_return_value) == (ExecutionStatus.FAILED, False)


@pytest.mark.asyncio
async def test_the_first_who_says_why_is_right_and_nothing_follows_the_end() -> None:
    events: Events = []
    running = execution(events)
    running.judge(ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY, "first")
    running.judge(ExecutionStatus.FAILED, Reason.DISK_FULL, "second")
    running.take(end(code=-9), b"")
    outcome = running.done.result()
    assert (outcome.status, outcome.reason, outcome.exit_code) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY, 137)
    assert outcome.error_message == "first"
    running.take({"is": "stdout"}, b"late")
    running.take({"nonsense": 1}, b"")
    running.give_up(Ending(Reason.SANDBOX_ENDED, "too late"))
    assert events == []
    assert running.done.result() is outcome


@pytest.mark.asyncio
async def test_who_can_not_take_an_event_does_not_end_the_execution(caplog: pytest.LogCaptureFixture) -> None:
    def broken(kind: str, data: Mapping[str, Any]) -> None:
        raise RuntimeError("full")

    request = RunRequest(execution_id="x", kind=ExecutionKind.HANDLER, code="", timeout=5)
    running = RunningExecution(request, broken, LIMIT)
    running.take({"is": "stdout"}, b"x")
    running.take(end(), b"")
    assert running.done.result().status is ExecutionStatus.COMPLETED
    assert "could not be taken" in caplog.text


heads = st.dictionaries(
    st.sampled_from(
        ["is", "code", "stopped", "has_value", "usage", "state_lost", "name", "value", "bad", "pid", "stream"]
    ),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["end", "stdout"]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(heads, st.binary(max_size=50)), max_size=6))
def test_whatever_comes_is_an_event_an_outcome_or_an_error_of_the_frame(
    said: list[tuple[dict[str, Any], bytes]],
) -> None:
    async def follow() -> None:
        events: Events = []
        running = execution(events)
        for head, body in said:
            try:
                running.take(head, body)
            except FrameError:
                running.give_up(Ending(Reason.SANDBOX_ENDED, "nonsense"))
        if running.done.done():
            assert running.done.result().status.is_final
        json.dumps(events, ensure_ascii=False).encode()

    asyncio.run(follow())


class Line:
    """A connection to an agent that the test plays."""

    def __init__(self, on_frame: Any = None) -> None:
        self.broken: list[str] = []
        self.heard: list[tuple[dict[str, Any], bytes]] = []
        self.requests, requests = os.pipe()
        replies, self.replies = os.pipe()
        self.connection = Connection(
            requests,
            replies,
            head_limit=1000,
            body_limit=1000,
            on_frame=on_frame or (lambda head, body: self.heard.append((head, body))),
            on_broken=self.broken.append,
        )

    def close(self) -> None:
        self.connection.close()
        for fd in (self.requests, self.replies):
            os.close(fd)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "data", [b"\xff" * 100, frame({"x": "y" * 2000}), frame({}, b"x" * 2000), b"\0\0\0\x02\0\0\0\0[]"]
)
async def test_what_is_no_frame_ends_the_connection(data: bytes) -> None:
    line = Line()
    os.write(line.replies, frame({"id": 1}, b"body") + data)
    await eventually(lambda: line.broken)
    assert line.heard == [({"id": 1}, b"body")]
    assert "makes no sense" in line.broken[0]
    with pytest.raises(ConnectionEndedError):
        await line.connection.send({})
    line.close()


@pytest.mark.asyncio
async def test_an_agent_that_reads_nothing_holds_up_who_sends_until_the_end() -> None:
    line = Line()
    sending = asyncio.ensure_future(line.connection.send({}, b"x" * 1_000_000))
    await asyncio.sleep(0.05)
    assert not sending.done()
    line.connection.close()
    with pytest.raises(ConnectionEndedError):
        await sending
    line.close()


@pytest.mark.asyncio
async def test_an_agent_that_is_gone_is_said_to_be() -> None:
    line = Line()
    os.close(line.replies)
    line.replies = os.dup(line.requests)
    await eventually(lambda: line.broken)
    assert line.broken == [GONE]
    line.close()


@pytest.mark.asyncio
async def test_nothing_else_is_heard_of_an_agent_while_what_it_said_is_looked_at_and_others_are() -> None:
    heard: list[Any] = []
    turns = iter(range(1_000_000))

    def on_frame(head: dict[str, Any], body: bytes) -> Iterator[None] | None:
        if head["id"] == 1:
            return looked_at()
        heard.append(head["id"])
        return None

    def looked_at() -> Iterator[None]:
        while next(turns) < 100:
            time.sleep(0.001)  # what takes a while
            yield
        heard.append("looked at")

    busy, other = Line(on_frame), Line()
    os.write(busy.replies, frame({"id": 1}) + frame({"id": 2}))
    await eventually(lambda: next(turns) > 2)
    os.write(busy.replies, frame({"id": 3}))
    os.write(other.replies, frame({"id": 4}))
    await eventually(lambda: other.heard)
    assert heard == []
    await eventually(lambda: len(heard) == 3)
    assert heard == ["looked at", 2, 3]
    for line in (busy, other):
        line.close()


@pytest.mark.asyncio
async def test_what_is_still_looked_at_when_an_agent_is_gone_is_looked_at_to_its_end() -> None:
    heard: list[int] = []

    def looked_at() -> Iterator[None]:
        for number in range(100):
            time.sleep(0.001)
            heard.append(number)
            yield

    line = Line(lambda head, body: looked_at())
    os.write(line.replies, frame({"id": 1}))
    await eventually(lambda: heard)
    assert len(heard) < 100
    for _ in line.connection.drain():
        pass
    assert len(heard) == 100
    line.close()
