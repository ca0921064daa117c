"""What a kernel prints can be read from outside when it is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.kernel_mgr.black_box import BlackBox
from ipybox.kernel_mgr.flight_recorder import RING_BYTES, SIZE, STREAMS, FlightRecorder, unsent


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("test") if hasattr(os, "memfd_create") else os.open("/dev/null", os.O_RDWR)
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@given(texts=st.lists(st.tuples(st.sampled_from([0, 1]), st.text(max_size=200)), max_size=30), cut=st.integers(0, 2000))
def test_what_was_not_sent_is_there(texts: list[tuple[int, str]], cut: int) -> None:
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, SIZE)
        recorder = FlightRecorder(fd)
        whole = ["", ""]
        for stream, text in texts:
            recorder.note(stream, text)
            whole[stream] += text
        for stream in (0, 1):
            sent = min(cut, len(whole[stream]))
            assert unsent(fd, stream, sent) == (whole[stream][sent:], 0)
    finally:
        os.close(fd)


def test_the_newest_of_more_than_fits_is_kept_and_the_rest_is_counted(memory: int) -> None:
    recorder = FlightRecorder(memory)
    text = "".join(f"{n}\n" for n in range(400_000))
    for start in range(0, len(text), 70_001):
        recorder.note(0, text[start : start + 70_001])
    kept, gone = unsent(memory, 0, 1000)
    assert text.endswith(kept)
    assert len(kept) == RING_BYTES
    assert gone == len(text) - 1000 - len(kept)


def test_a_character_that_lost_its_first_bytes_to_the_ring_is_left_out(memory: int) -> None:
    recorder = FlightRecorder(memory)
    recorder.note(1, "ab" + "é" * RING_BYTES)
    kept, gone = unsent(memory, 1, 0)
    assert set(kept) == {"é"}
    assert len(kept) + gone == RING_BYTES + 2


def test_nonsense_in_the_memory_is_read_without_harm(memory: int) -> None:
    os.pwrite(memory, os.urandom(SIZE), 0)
    for stream in range(len(STREAMS)):
        text, gone = unsent(memory, stream, 0)
        assert len(text) <= RING_BYTES
        assert gone >= 0


def test_a_black_box_gives_memory_and_pipe_in_order() -> None:
    box = BlackBox()
    try:
        (_, write), _ = box.pipes
        memory = box.memory
        FlightRecorder(memory).note(0, "printed, ")
        os.write(write, "written é\xff".encode() + b"\xff")
        box.close_write_ends()
        assert box.recover({"stdout": 4}) == [("stdout", "ted, written éÿ\\xff")]
    finally:
        box.close()


def test_a_black_box_of_a_kernel_that_said_nothing_is_empty() -> None:
    box = BlackBox()
    try:
        box.close_write_ends()
        assert box.recover({}) == []
    finally:
        box.close()
