"""Events on their way to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ipybox.control.errors import NoCapacityError
from ipybox.control.records import ExecutionEvent
from ipybox.control.service.event_log import EventLog
from ipybox.control.service.retries import Retries


@pytest.mark.asyncio
async def test_what_was_taken_at_last_is_still_not_written_by_anybody_else() -> None:
    written: list[list[int]] = []
    asked, answer = asyncio.Event(), asyncio.Event()

    async def append(execution_id: str, events: Sequence[ExecutionEvent]) -> None:
        written.append([each.seq for each in events])
        if len(written) == 1:
            asked.set()
            await answer.wait()
            raise NoCapacityError("the database does not answer")

    log = EventLog("e", append, Retries(), 1000)
    log.add("stdout", {"text": "a"})
    await asked.wait()
    log.add("stderr", {"text": "b"})  # it is to be written soon, as far as anybody knows
    answer.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert log.failure is not None
    assert [each.seq for each in await log.take_last()] == [2]
    await asyncio.sleep(0.1)  # by then it would be
    assert [each for each in written if each] == [[1], [1]]
