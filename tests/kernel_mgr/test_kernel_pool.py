"""A pool keeps kernels ready and gives each of them away once, whatever happens to them. No kernels here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from ipybox.kernel_mgr import kernel_pool
from ipybox.kernel_mgr.kernel_pool import KernelPool

HANG = 10.0


class Kernels:
    """Starts, judges and ends kernels, as it is told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.bad: set[str] = set()
        self.errors: list[Exception] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_judge = asyncio.Event()
        self.may_judge.set()
        self.judging = asyncio.Event()
        self.asked = 0
        self.cancelled = 0

    async def start(self) -> str:
        """Starts one."""
        self.asked += 1
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.errors:
            raise self.errors.pop()
        self.started.append(f"k{len(self.started)}")
        return self.started[-1]

    async def is_good(self, kernel_id: str) -> bool:
        """Judges one."""
        self.judging.set()
        await self.may_judge.wait()
        if "broken judge" in self.bad:
            raise RuntimeError("nobody knows")
        return kernel_id not in self.bad

    async def end(self, kernel_id: str) -> None:
        """Ends one."""
        self.ended.append(kernel_id)

    def pool(self, size: int) -> KernelPool:
        """A pool of them."""
        return KernelPool(size, self.start, self.is_good, self.end)


@pytest_asyncio.fixture
async def kernels() -> AsyncIterator[Kernels]:
    yield Kernels()


async def until(fact: Callable[[], bool]) -> None:
    """Lets everybody run until something is true."""
    async with asyncio.timeout(HANG):
        while not fact():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def settled() -> None:
    """Lets everybody do what can be done at once."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_pool, "_PAUSE", 0.0)


@pytest.mark.asyncio
async def test_it_is_filled_up_to_its_size_and_no_further(kernels: Kernels) -> None:
    pool = kernels.pool(3)
    assert (len(pool), kernels.asked) == (0, 0)
    pool.open()
    await until(lambda: len(pool) == 3)
    await settled()
    assert kernels.started == ["k0", "k1", "k2"]
    assert all(kernel_id in pool for kernel_id in kernels.started)
    await pool.close()


@pytest.mark.asyncio
async def test_to_open_it_twice_is_to_open_it(kernels: Kernels) -> None:
    pool = kernels.pool(2)
    pool.open()
    pool.open()
    await until(lambda: len(pool) == 2)
    await settled()
    assert len(kernels.started) == 2
    await pool.close()


@pytest.mark.asyncio
async def test_one_of_no_size_starts_nothing(kernels: Kernels) -> None:
    pool = kernels.pool(0)
    pool.open()
    await settled()
    assert await pool.take() is None
    await settled()
    assert kernels.asked == 0
    await pool.close()


@pytest.mark.asyncio
async def test_each_is_given_away_once_the_oldest_first_and_another_takes_its_place(kernels: Kernels) -> None:
    pool = kernels.pool(2)
    pool.open()
    taken = []
    for _ in range(5):
        await until(lambda: len(pool) == 2)
        taken.append(await pool.take())
    assert taken == ["k0", "k1", "k2", "k3", "k4"]
    assert not any(kernel_id in pool for kernel_id in taken)
    await until(lambda: len(pool) == 2)
    assert kernels.ended == []
    await pool.close()


@pytest.mark.asyncio
async def test_many_who_take_at_once_get_different_ones_and_the_rest_gets_none(kernels: Kernels) -> None:
    pool = kernels.pool(3)
    pool.open()
    await until(lambda: len(pool) == 3)
    kernels.may_start.clear()
    taken = await asyncio.gather(*(pool.take() for _ in range(6)))
    assert sorted(kernel_id for kernel_id in taken if kernel_id is not None) == ["k0", "k1", "k2"]
    assert taken.count(None) == 3
    await pool.close()


@pytest.mark.asyncio
async def test_one_that_is_no_longer_good_is_ended_and_not_given_away(kernels: Kernels) -> None:
    pool = kernels.pool(3)
    pool.open()
    await until(lambda: len(pool) == 3)
    kernels.bad = {"k0", "k1"}
    assert await pool.take() == "k2"
    await until(lambda: len(pool) == 3)
    assert sorted(kernels.ended) == ["k0", "k1"]
    assert len(kernels.started) == 6
    await pool.close()


@pytest.mark.asyncio
async def test_when_none_is_good_there_is_none_and_new_ones_come(kernels: Kernels) -> None:
    pool = kernels.pool(2)
    pool.open()
    await until(lambda: len(pool) == 2)
    kernels.bad = {"k0", "k1"}
    kernels.may_start.clear()
    assert await pool.take() is None
    kernels.may_start.set()
    await until(lambda: len(pool) == 2)
    assert await pool.take() == "k2"
    await pool.close()


@pytest.mark.asyncio
async def test_one_that_died_is_ended_replaced_and_not_given_away(kernels: Kernels) -> None:
    pool = kernels.pool(2)
    pool.open()
    await until(lambda: len(pool) == 2)
    pool.drop("k0")
    assert "k0" not in pool
    await until(lambda: len(pool) == 2)
    assert kernels.ended == ["k0"]
    assert await pool.take() == "k1"
    await pool.close()


@pytest.mark.asyncio
async def test_the_death_of_one_that_is_not_in_it_changes_nothing(kernels: Kernels) -> None:
    pool = kernels.pool(1)
    pool.open()
    await until(lambda: len(pool) == 1)
    taken = await pool.take()
    assert taken == "k0"
    pool.drop(taken)
    pool.drop("never heard of")
    await settled()
    assert kernels.ended == []
    await pool.close()


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.asyncio
async def test_starts_that_fail_are_tried_again_until_they_do_not(kernels: Kernels) -> None:
    kernels.errors = [OSError("no memory"), RuntimeError("no policy"), ValueError("no idea")]
    pool = kernels.pool(2)
    pool.open()
    await until(lambda: len(pool) == 2)
    assert (kernels.asked, kernels.errors) == (5, [])
    await pool.close()


@pytest.mark.asyncio
async def test_while_starts_fail_they_are_not_tried_without_a_pause(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_pool, "_PAUSE", 3600.0)
    kernels.errors = [OSError("no memory")]
    pool = kernels.pool(2)
    pool.open()
    await settled()
    assert kernels.asked == 1
    await pool.close()


@pytest.mark.asyncio
async def test_close_in_the_middle_of_a_start_gives_that_up_and_returns(kernels: Kernels) -> None:
    kernels.may_start.clear()
    pool = kernels.pool(2)
    pool.open()
    await until(lambda: kernels.asked == 1)
    async with asyncio.timeout(HANG):
        await pool.close()
    assert kernels.cancelled == 1
    kernels.may_start.set()
    await settled()
    assert (kernels.asked, len(pool)) == (1, 0)


@pytest.mark.asyncio
async def test_close_during_the_pause_returns_at_once(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_pool, "_PAUSE", 3600.0)
    kernels.errors = [OSError("no memory")]
    pool = kernels.pool(1)
    pool.open()
    await settled()
    async with asyncio.timeout(HANG):
        await pool.close()


@pytest.mark.asyncio
async def test_what_is_closed_gives_nothing_away_and_is_not_filled(kernels: Kernels) -> None:
    pool = kernels.pool(2)
    pool.open()
    await until(lambda: len(pool) == 2)
    await pool.close()
    assert await pool.take() is None
    pool.open()
    await settled()
    assert (len(kernels.started), len(pool)) == (2, 0)
    await pool.close()


@pytest.mark.asyncio
async def test_one_that_was_never_opened_can_be_closed(kernels: Kernels) -> None:
    await kernels.pool(2).close()


@pytest.mark.asyncio
async def test_one_whose_taker_gives_up_is_not_lost(kernels: Kernels) -> None:
    """It is given to somebody else, or ended."""
    pool = kernels.pool(1)
    pool.open()
    await until(lambda: len(pool) == 1)
    kernels.may_judge.clear()
    taking = asyncio.ensure_future(pool.take())
    await kernels.judging.wait()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    kernels.may_judge.set()
    await settled()
    assert "k0" in pool or kernels.ended == ["k0"]
    await pool.close()


@pytest.mark.asyncio
async def test_one_that_nobody_can_judge_is_not_lost_and_its_taker_does_not_suffer(kernels: Kernels) -> None:
    pool = kernels.pool(1)
    pool.open()
    await until(lambda: len(pool) == 1)
    kernels.may_start.clear()
    kernels.bad = {"broken judge"}
    assert await pool.take() is None
    await settled()
    assert kernels.ended == ["k0"]
    await pool.close()


@pytest.mark.asyncio
async def test_one_that_dies_while_it_is_judged_is_not_given_away(kernels: Kernels) -> None:
    pool = kernels.pool(1)
    pool.open()
    await until(lambda: len(pool) == 1)
    kernels.may_start.clear()
    kernels.may_judge.clear()
    taking = asyncio.ensure_future(pool.take())
    await kernels.judging.wait()
    pool.drop("k0")
    kernels.may_judge.set()
    assert await taking is None
    await pool.close()
