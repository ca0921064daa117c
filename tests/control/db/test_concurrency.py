"""Who comes at the same time, in one process and in several."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import ConflictError, ControlError, NoCapacityError, QuotaExceededError
from ipybox.control.states import ExecutionStatus, SessionStatus
from tests.control.made import NOW, a_session, an_event, an_execution
from tests.control.postgres_server import PostgresServer

CHECKOUT = Path(__file__).parents[3]


@asynccontextmanager
async def worker(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has the database open, and begins when it is told."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.control.db.worker", *arguments),
        cwd=CHECKOUT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def outcome(process: asyncio.subprocess.Process) -> list[str]:
    output, _ = await process.communicate(b"\n")
    assert process.returncode == 0
    return output.decode().split()


@pytest.mark.asyncio
async def test_of_many_tasks_in_two_processes_one_starts_each_execution(database_url: str) -> None:
    count = 50
    async with Database(database_url) as database:
        await database.sessions.add(a_session())
        for number in range(count):
            await database.executions.add(an_execution(f"e{number}"))
        claim = ("claim", database_url, str(count))
        async with worker(*claim) as one, worker(*claim) as other:
            started = await asyncio.gather(outcome(one), outcome(other))
        assert sorted(chain(*started)) == sorted(f"e{number}" for number in range(count))


@pytest.mark.asyncio
async def test_two_processes_together_do_not_exceed_a_quota(database_url: str) -> None:
    async with (
        worker("add", database_url, "a", "40", "30") as one,
        worker("add", database_url, "b", "40", "30") as other,
    ):
        added = list(chain(*await asyncio.gather(outcome(one), outcome(other))))
    async with Database(database_url) as database:
        assert sorted(added) == sorted(each.id for each in await database.sessions.alive())
        assert len(added) == 30


@pytest.mark.asyncio
async def test_two_hundred_sessions_at_once_do_not_exceed_a_quota(database: Database) -> None:
    async def add(number: int) -> type[ControlError] | None:
        try:
            owner = "ann" if number % 2 else "bob"
            await database.sessions.add(a_session(f"s{number}", owner=owner), per_owner=20, in_all=33)
        except (QuotaExceededError, NoCapacityError) as error:
            return type(error)
        return None

    found = await asyncio.gather(*(add(number) for number in range(200)))
    assert found.count(None) == await database.sessions.count_alive() == 33
    assert max(await database.sessions.count_alive("ann"), await database.sessions.count_alive("bob")) <= 20


@pytest.mark.parametrize(("per_session", "per_owner", "allowed"), [(10, None, 20), (None, 15, 15), (10, 15, 15)])
@pytest.mark.asyncio
async def test_executions_at_once_do_not_exceed_a_quota(
    database: Database, per_session: int | None, per_owner: int | None, allowed: int
) -> None:
    for session in ("s", "t"):
        await database.sessions.add(a_session(session))

    async def add(number: int) -> bool:
        try:
            execution = an_execution(f"e{number}", session_id="st"[number % 2])
            await database.executions.add(execution, per_session=per_session, per_owner=per_owner)
        except QuotaExceededError:
            return False
        return True

    found = await asyncio.gather(*(add(number) for number in range(60)))
    assert found.count(True) == await database.executions.count_unfinished("ann") == allowed


@pytest.mark.asyncio
async def test_a_session_that_is_about_to_end_takes_no_execution(
    postgres: PostgresServer, postgres_url: str, migrated: str
) -> None:
    async with Database(postgres_url) as database:
        await database.sessions.add(a_session())
        with postgres.holding(migrated, "UPDATE sessions SET status = 'terminated'"):
            adding = asyncio.ensure_future(database.executions.add(an_execution()))
            await postgres.until_it_waits(adding)
            assert not adding.done()
        with pytest.raises(ConflictError, match="the session is terminated"):
            await adding


@pytest.mark.asyncio
async def test_a_session_ends_once_and_takes_nothing_after_that(database: Database) -> None:
    ends = (SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.TIMEOUT, SessionStatus.TERMINATED)
    alive = (SessionStatus.RUNNING, SessionStatus.CREATING)
    for round in range(5):
        session = f"s{round}"
        await database.sessions.add(a_session(session))

        async def end(number: int, session: str = session) -> bool:
            return await database.sessions.change(session, expect=[alive[0]], status=ends[number % 4]) is not None

        async def add(number: int, session: str = session) -> bool:
            try:
                await database.executions.add(an_execution(f"{session}-{number}", session_id=session))
            except ConflictError:
                return False
            return True

        adding = [asyncio.ensure_future(add(number)) for number in range(8)]
        ending = [asyncio.ensure_future(end(number)) for number in range(8)]
        assert sum(await asyncio.gather(*ending)) == 1
        assert sum(await asyncio.gather(*adding)) == (await database.executions.list(session, limit=1)).total
        assert not await add(99)


@pytest.mark.asyncio
async def test_an_end_counts_the_events_that_come_at_the_same_time(database: Database) -> None:
    await database.sessions.add(a_session())
    for round in range(10):
        id = f"e{round}"
        await database.executions.add(an_execution(id, status=ExecutionStatus.RUNNING))

        async def append(seq: int, id: str = id) -> None:
            try:
                await database.events.append(id, [an_event(seq, execution_id=id)])
            except ConflictError:
                pass  # it was over

        appending = [asyncio.ensure_future(append(seq)) for seq in range(1, 6)]
        last = [an_event(100, execution_id=id)]
        finished = await database.executions.finish(
            id, completed_at=NOW, status=ExecutionStatus.COMPLETED, last_events=last
        )
        await asyncio.gather(*appending)
        assert finished is not None
        assert finished.events == len(await database.events.after(id, 0))


@pytest.mark.asyncio
async def test_what_was_acknowledged_is_there_after_a_kill(database_url: str) -> None:
    async with Database(database_url) as database:
        for round in range(4):
            acknowledged: set[str] = set()
            async with worker("write", database_url, str(round)) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"\n")
                for _ in range(random.randrange(1, 200)):
                    acknowledged.add((await process.stdout.readline()).decode().strip())
                process.send_signal(signal.SIGKILL)
                rest, _ = await process.communicate()
            whole, _, _ = rest.decode().rpartition("\n")
            acknowledged.update(whole.split())
            kept = {each.id: each for each in await database.sessions.alive() if each.id.startswith(f"{round}-")}
            assert kept.keys() >= acknowledged
            assert len(kept) <= len(acknowledged) + 1  # committed, and not yet said
            for id in kept:  # all of it is there, or nothing
                assert kept[id] == a_session(id, tags={"n": id.partition("-")[2]})
