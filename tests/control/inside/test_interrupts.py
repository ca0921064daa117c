"""An interrupt raises in code, waits in what is ours, and is nothing between cells."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from ipybox.control.inside.interrupts import Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = signal.getsignal(signal.SIGINT)
    made = Interrupts()
    made.install()
    yield made
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_between_cells_it_is_nothing(interrupts: Interrupts) -> None:
    interrupt()
    with interrupts.cell(), interrupts.code():
        pass
    interrupt()


def test_in_code_it_raises(interrupts: Interrupts) -> None:
    with interrupts.cell():
        with pytest.raises(KeyboardInterrupt), interrupts.code():
            interrupt()
        assert interrupts.came


def test_before_code_it_waits_for_the_code(interrupts: Interrupts) -> None:
    steps = []
    with interrupts.cell():
        interrupt()
        with pytest.raises(KeyboardInterrupt), interrupts.code():
            steps.append("never")
        with interrupts.code():
            steps.append("next")
    assert steps == ["next"]


def test_in_what_is_ours_it_waits_until_that_is_done(interrupts: Interrupts) -> None:
    steps = []
    with interrupts.cell(), pytest.raises(KeyboardInterrupt), interrupts.code():
        with interrupts.ours():
            interrupt()
            steps.append("done")
        steps.append("never")
    assert steps == ["done"]


def test_what_came_too_late_is_not_for_the_next_cell(interrupts: Interrupts) -> None:
    with interrupts.cell():
        interrupt()
    with interrupts.cell(), interrupts.code():
        pass
    assert not interrupts.came


def test_while_a_cell_awaits_it_is_cancelled(interrupts: Interrupts) -> None:
    async def cell() -> None:
        with interrupts.code():
            asyncio.get_running_loop().call_later(0.01, interrupt)
            await asyncio.sleep(60)

    loop = asyncio.new_event_loop()
    task = loop.create_task(cell())
    with interrupts.cell(), interrupts.awaiting(task), pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
