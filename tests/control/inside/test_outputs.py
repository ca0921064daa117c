"""Outputs are told in pieces and in order, are cut where they are too long, and wait where nobody takes them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.control.inside.outputs import Line, Output
from ipybox.session.inside_loop import InsideLoop


class Reading:
    """An output that is told to a list, by way of a line that somebody reads or does not."""

    def __init__(self, limit: int) -> None:
        self.loop = InsideLoop()
        self.taken, line = os.pipe()
        self.line = Line(self.loop, line, self.loop.stop)
        self._line_fd = line
        read, self.write = os.pipe()
        self.told: list[bytes] = []
        self.cuts = 0
        self.output = Output(self.loop, self.line, read, self.told.append, limit, self._cut)

    def _cut(self) -> None:
        self.cuts += 1

    def until(self, is_done: Callable[[], bool]) -> None:
        def look() -> None:
            if is_done():
                self.loop.stop()
            else:
                self.loop.after(0.001, look)

        look()
        self.loop.run()
        self.loop = self.loop

    def close(self) -> None:
        self.output.close()
        for fd in (self.taken, self._line_fd, self.write):
            if fd >= 0:
                os.close(fd)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=20), st.integers(0, 20_000))
def test_what_fits_is_told_and_the_rest_is_cut_once(pieces: list[bytes], limit: int) -> None:
    reading = Reading(limit)
    for piece in pieces:
        os.write(reading.write, piece)
        reading.output.drain()
    whole = b"".join(pieces)
    assert b"".join(reading.told) == whole[:limit]
    assert reading.cuts == (len(whole) > limit)
    reading.close()


def test_a_writer_who_is_faster_than_the_owner_is_held_up_and_nothing_is_lost() -> None:
    reading = Reading(100_000_000)
    data = os.urandom(3_000_000)

    def write() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(reading.write, left) :]

    writer = threading.Thread(target=write)
    writer.start()
    reading.line.put(b"x" * 3_000_000)  # which nobody takes for now
    taken = 0

    def take() -> bool:
        nonlocal taken
        assert taken or not reading.told
        if taken < 3_000_000:
            taken += len(os.read(reading.taken, 1 << 20))
        return sum(map(len, reading.told)) == len(data)

    reading.until(take)
    writer.join()
    assert b"".join(reading.told) == data
    reading.close()


def test_what_comes_while_nobody_listens_is_for_the_next_who_does() -> None:
    reading = Reading(100)
    os.write(reading.write, b"one")
    reading.output.drain()
    reading.output.turn_to(None, 5, lambda: None)
    os.write(reading.write, b"between")
    reading.output.drain()
    next_one: list[bytes] = []
    reading.output.turn_to(next_one.append, 100, lambda: None)
    os.write(reading.write, b"two")
    reading.output.drain()
    assert reading.told == [b"one"]
    assert b"".join(next_one) == b"betwetwo"
    reading.close()


def test_many_small_pieces_are_told_as_few() -> None:
    reading = Reading(100_000)

    def write() -> None:
        for _ in range(5000):
            os.write(reading.write, b"x")

    writer = threading.Thread(target=write)
    writer.start()
    reading.until(lambda: sum(map(len, reading.told)) == 5000)
    writer.join()
    assert len(reading.told) < 500
    reading.close()
