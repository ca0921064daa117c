"""Who may start a kernel now: so many at most, so many at a time, and nobody waits in vain. No kernels here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
import pytest

from ipybox.kernel_mgr import admission
from ipybox.kernel_mgr.admission import Admission, FullError

PLENTY = 1 << 40


def made(
    alive: Callable[[], int] = lambda: 0,
    *,
    max_kernels: int | None = None,
    at_once: int = 2,
    available: Callable[[], int] = lambda: PLENTY,
) -> Admission:
    """An admission on a machine with plenty of memory."""
    return Admission(alive, max_kernels=max_kernels, at_once=at_once, available=available)


class Line:
    """Starts that end when they are told to."""

    def __init__(self, of: Admission) -> None:
        self._of = of
        self.order: list[int] = []
        self.inside = 0
        self.most = 0
        self.may_end: dict[int, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def _start(self, number: int, error: type[Exception] | None) -> None:
        async with self._of.slot():
            self.order.append(number)
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await self.may_end[number].wait()
                if error is not None:
                    raise error
            finally:
                self.inside -= 1

    async def join(self, error: type[Exception] | None = None) -> asyncio.Task[None]:
        """One more."""
        number = len(self.tasks)
        self.may_end[number] = asyncio.Event()
        task = asyncio.ensure_future(self._start(number, error))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def end(self, number: int) -> None:
        """One start ends."""
        self.may_end[number].set()
        await asyncio.gather(self.tasks[number], return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)


# ---- how many there may be --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_as_many_as_max_kernels_and_no_more() -> None:
    count = 0
    of = made(lambda: count, max_kernels=3)
    for count in range(3):  # noqa: B007 - the lambda above reads it
        of.check()
    count = 3
    with pytest.raises(FullError, match="max_kernels") as caught:
        of.check()
    assert "3" in caught.value.reason
    assert caught.value.retry_after >= 1
    count = 2
    of.check()


@pytest.mark.asyncio
async def test_without_max_kernels_any_number_may_be() -> None:
    made(lambda: 1_000_000).check()


@pytest.mark.asyncio
async def test_when_memory_runs_out_it_is_refused_and_when_it_is_back_it_is_not() -> None:
    total = psutil.virtual_memory().total
    free = total
    of = made(available=lambda: free)
    of.check()
    free = 64 * 1024 * 1024
    with pytest.raises(FullError, match="64 MiB of memory") as caught:
        of.check()
    assert caught.value.retry_after >= 1
    free = total
    of.check()


@pytest.mark.asyncio
async def test_some_memory_is_left_to_the_rest_of_the_machine() -> None:
    total = psutil.virtual_memory().total
    made(available=lambda: max(total // 10, 256 * 1024 * 1024)).check()
    with pytest.raises(FullError):
        made(available=lambda: total // 25).check()


@pytest.mark.asyncio
async def test_the_machines_own_memory_is_what_counts_unless_told_otherwise() -> None:
    of = Admission(lambda: 0, max_kernels=None, at_once=1)
    assert 0 < of._available() <= psutil.virtual_memory().total


@pytest.mark.parametrize("seconds", [0.0, 0.01, 1.0, 1.5, 30.2])
def test_who_is_told_to_come_back_gets_whole_seconds_and_at_least_one(seconds: float) -> None:
    error = FullError("x", seconds)
    assert type(error.retry_after) is int
    assert error.retry_after >= max(1, seconds)
    assert error.retry_after < seconds + 1 or error.retry_after == 1


# ---- how many at a time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.asyncio
async def test_so_many_start_at_a_time_and_the_others_wait_in_order(at_once: int) -> None:
    of = made(at_once=at_once)
    line = Line(of)
    for _ in range(12):
        await line.join()
    assert (line.inside, of.waiting) == (at_once, 12 - at_once)
    for number in range(12):
        await line.end(number)
    assert (line.inside, line.most, of.waiting) == (0, at_once, 0)
    assert line.order == list(range(12))


@pytest.mark.asyncio
async def test_a_start_that_fails_leaves_its_place_to_the_next() -> None:
    of = made(at_once=1)
    line = Line(of)
    failing = await line.join(RuntimeError)
    await line.join()
    assert line.order == [0]
    await line.end(0)
    assert isinstance(failing.exception(), RuntimeError)
    assert line.order == [0, 1]
    await line.end(1)
    assert of.waiting == 0


@pytest.mark.asyncio
async def test_who_gives_up_in_line_is_not_waited_for() -> None:
    of = made(at_once=1)
    line = Line(of)
    for _ in range(4):
        await line.join()
    assert of.waiting == 3
    line.tasks[1].cancel()
    line.tasks[2].cancel()
    await asyncio.gather(line.tasks[1], line.tasks[2], return_exceptions=True)
    assert of.waiting == 1
    await line.end(0)
    assert line.order == [0, 3]
    await line.end(3)
    await line.join()
    assert line.order == [0, 3, 4]
    await line.end(4)


@pytest.mark.asyncio
async def test_who_gives_up_just_when_it_is_its_turn_leaves_it_to_the_next() -> None:
    of = made(at_once=1)
    line = Line(of)
    for _ in range(3):
        await line.join()
    line.may_end[0].set()
    line.tasks[0].add_done_callback(lambda _: line.tasks[1].cancel())  # it has been woken and has not run yet
    await asyncio.gather(line.tasks[0], line.tasks[1], return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert line.order[-1] == 2
    assert (line.inside, of.waiting) == (1, 0)
    await line.end(2)


@pytest.mark.asyncio
async def test_who_gives_up_while_it_starts_leaves_its_place() -> None:
    of = made(at_once=1)
    line = Line(of)
    first = await line.join()
    await line.join()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert line.order == [0, 1]
    await line.end(1)


@pytest.mark.asyncio
async def test_a_line_that_is_too_long_is_refused_with_a_hint_and_a_short_one_is_not() -> None:
    of = made(at_once=1)
    line = Line(of)
    while True:
        try:
            of.check()
        except FullError as error:
            full = error
            break
        await line.join()
        assert len(line.tasks) < 10_000
    assert "waiting" in full.reason
    assert full.retry_after >= admission._PATIENCE
    for task in line.tasks:
        task.cancel()
    await asyncio.gather(*line.tasks, return_exceptions=True)
    of.check()
