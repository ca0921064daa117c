from __future__ import annotations

import asyncio

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import RecordNotFoundError
from ipybox.control.records import IdempotentAnswer
from tests.control.made import NOW, later


@pytest.mark.asyncio
async def test_a_request_is_answered_once_and_then_as_before(database: Database) -> None:
    answers = database.answers
    assert await answers.reserve("ann", "1", "POST /x", "h", NOW) is None
    working = IdempotentAnswer(
        owner="ann", key="1", route="POST /x", request_hash="h", status=None, body=None, created_at=NOW
    )
    assert await answers.reserve("ann", "1", "POST /y", "i", later(1)) == working
    assert await answers.reserve("bob", "1", "POST /x", "h", NOW) is None
    await answers.complete("ann", "1", 201, {"id": "s\0"})
    done = await answers.reserve("ann", "1", "POST /x", "h", later(2))
    assert done is not None
    assert (done.status, done.body) == (201, {"id": "s\0"})
    await answers.complete("ann", "1", 500, None)
    await answers.release("ann", "1")
    assert await answers.reserve("ann", "1", "POST /x", "h", later(3)) == done
    with pytest.raises(RecordNotFoundError):
        await answers.complete("ann", "2", 201, None)


@pytest.mark.asyncio
async def test_who_fails_gives_it_back(database: Database) -> None:
    assert await database.answers.reserve("ann", "1", "r", "h", NOW) is None
    await database.answers.release("ann", "1")
    assert await database.answers.reserve("ann", "1", "r", "h", NOW) is None
    await database.answers.release("ann", "none")


@pytest.mark.asyncio
async def test_of_many_at_once_one_goes_on(database: Database) -> None:
    for key in "abc":
        found = await asyncio.gather(*(database.answers.reserve("ann", key, "r", "h", NOW) for _ in range(20)))
        assert found.count(None) == 1


@pytest.mark.asyncio
async def test_answers_are_forgotten_after_a_while_and_cut_off_work_at_a_start(database: Database) -> None:
    for seconds in range(4):
        await database.answers.reserve("ann", str(seconds), "r", "h", later(seconds))
        if seconds % 2:
            await database.answers.complete("ann", str(seconds), 200, None)
    assert await database.answers.forget_unfinished(later(2)) == 1
    assert await database.answers.forget_before(later(3)) == 2
    assert await database.answers.forget_before(later(3)) == 0
    assert await database.answers.reserve("ann", "3", "r", "h", NOW) is not None
