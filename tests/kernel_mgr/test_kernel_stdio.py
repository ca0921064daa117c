"""The log in which a kernel's two streams share one order, with real pipes and without a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.kernel_mgr.kernel_stdio import KernelStream, OutputLog

PATIENCE = 10.0
EURO = "€".encode()


class Stream:
    """What the log needs of a stream: whose output it is, and to be told that there is some."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.latest_parent: dict[str, Any] = {"msg_id": "e1"}
        self.told = Event()

    def flush_soon(self) -> None:
        self.told.set()


def stream(index: int = 0) -> KernelStream:
    return cast(KernelStream, Stream(index))


@contextmanager
def piped(log: OutputLog, count: int = 1) -> Iterator[tuple[list[KernelStream], list[int]]]:
    """Streams whose pipes a log captures, and the write ends. The watcher thread ends with them."""
    streams, reads, writes = [], [], []
    for index in range(count):
        read, write = os.pipe()
        streams.append(stream(index))
        reads.append(read)
        writes.append(write)
    with log.lock:  # the watcher sees all of them or none
        for each, read in zip(streams, reads, strict=True):
            log.capture(each, read)
    try:
        yield streams, writes
    finally:
        for fd in writes:
            if fd >= 0:
                os.close(fd)
        if log._watcher is not None:
            log._watcher.join(PATIENCE)
            assert not log._watcher.is_alive()
        for fd in reads:
            try:
                os.close(fd)
            except OSError:
                pass  # the log closed it


def taken(log: OutputLog) -> list[tuple[KernelStream, str]]:
    return [(owner, "".join(texts)) for owner, _, texts in log.take()]


def test_both_streams_share_one_order_and_neighbours_are_joined() -> None:
    log = OutputLog()
    out, err = stream(0), stream(1)
    parent = {"msg_id": "e1"}
    for owner, text in [(out, "a"), (out, "b"), (err, "c"), (out, "d")]:
        log.append(owner, parent, text)
    assert log.pending == 4
    assert taken(log) == [(out, "ab"), (err, "c"), (out, "d")]
    assert log.pending == 0
    assert log.take() == []


def test_text_of_two_executions_is_kept_apart() -> None:
    log = OutputLog()
    out = stream()
    for parent, text in [("e1", "a"), ("e1", "b"), ("e2", "c")]:
        log.append(out, {"msg_id": parent}, text)
    assert [(parent["msg_id"], "".join(texts)) for _, parent, texts in log.take()] == [("e1", "ab"), ("e2", "c")]


@settings(deadline=None, max_examples=25)
@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from("€😀ü"), max_size=12),
    st.lists(st.integers(1, 5), max_size=12),
)
def test_characters_survive_being_cut_into_reads(text: str, cuts: list[int]) -> None:
    log = OutputLog()
    with piped(log) as (_, (write,)), log.lock:
        data = text.encode()
        for cut in [*cuts, len(data)]:
            if data[:cut]:
                os.write(write, data[:cut])
            data = data[cut:]
            log.pull()
        assert "".join(piece for _, piece in taken(log)) == text
        log.finish_characters()
        assert log.take() == []


def test_bytes_that_are_no_utf_8_arrive_as_escapes() -> None:
    log = OutputLog()
    with piped(log) as ((out,), (write,)), log.lock:
        os.write(write, b"a\xffb" + EURO)
        log.pull()
        assert taken(log) == [(out, "a\\xffb€")]


def test_a_character_that_nobody_finished_arrives_as_escapes_at_the_end_of_a_cell() -> None:
    log = OutputLog()
    with piped(log) as ((out,), (write,)), log.lock:
        os.write(write, b"x" + EURO[:2])
        log.pull()
        assert taken(log) == [(out, "x")]
        log.finish_characters()
        assert taken(log) == [(out, "\\xe2\\x82")]
        os.write(write, b"next")
        log.pull()
        assert taken(log) == [(out, "next")]


def test_a_character_that_nobody_finished_arrives_also_when_the_pipe_is_closed() -> None:
    log = OutputLog()
    with piped(log) as (_, writes), log.lock:
        os.write(writes[0], b"x" + EURO[:2])
        os.close(writes[0])
        writes[0] = -1
        log.pull()
        log.finish_characters()
        assert "".join(text for _, text in taken(log)) == "x\\xe2\\x82"


def test_a_pipe_that_user_code_closed_does_not_hide_the_other_one() -> None:
    log = OutputLog()
    with piped(log, 2) as ((_, err), writes), log.lock:
        os.close(writes[0])
        writes[0] = -1
        os.write(writes[1], b"last words")
        log.pull()
        assert taken(log) == [(err, "last words")]


def test_more_than_a_pipe_holds_arrives_whole() -> None:
    log = OutputLog()
    with piped(log) as (_, (write,)):
        data = bytes(range(32, 127)) * 10_000
        view = memoryview(data)
        while view:  # the watcher makes room
            view = view[os.write(write, view) :]
        with log.lock:
            log.pull()
            assert "".join(text for _, text in taken(log)) == data.decode()


def test_what_a_child_process_writes_is_noticed_without_being_asked_for() -> None:
    log = OutputLog()
    with piped(log) as ((out,), (write,)):
        os.write(write, b"hello")
        assert cast(Stream, out).told.wait(PATIENCE)
        assert taken(log) == [(out, "hello")]


def test_text_belongs_to_the_execution_that_runs_when_it_is_read() -> None:
    log = OutputLog()
    with piped(log) as ((out,), (write,)), log.lock:
        os.write(write, b"a")
        log.pull()
        cast(Stream, out).latest_parent = {"msg_id": "e2"}
        os.write(write, b"b")
        log.pull()
        assert [parent["msg_id"] for _, parent, _ in log.take()] == ["e1", "e2"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_does_not_send_again_what_its_parent_is_about_to_send() -> None:
    log = OutputLog()
    log.append(stream(), {"msg_id": "e1"}, "once")
    child = os.fork()
    if child == 0:
        os._exit(0 if log.take() == [] and log.is_fork else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(log.take()) == 1
    assert not log.is_fork
