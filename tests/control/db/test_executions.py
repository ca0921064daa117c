from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import ConflictError, QuotaExceededError, RecordNotFoundError
from ipybox.control.records import Artifact, Metrics
from ipybox.control.states import EXECUTION_STEPS, ExecutionStatus, Reason, SessionStatus
from tests.control.made import NOW, a_session, an_event, an_execution, later


@pytest.mark.asyncio
async def test_a_session_takes_executions_of_its_owner_while_it_is_alive(database: Database) -> None:
    for status in SessionStatus:
        await database.sessions.add(a_session(f"s-{status}", status=status))
        execution = an_execution(f"e-{status}", session_id=f"s-{status}")
        if status.is_final:
            with pytest.raises(ConflictError, match=f"the session is {status}"):
                await database.executions.add(execution)
        else:
            await database.executions.add(execution)
            assert await database.executions.get(f"e-{status}") == execution
    with pytest.raises(RecordNotFoundError, match="no session 'none'"):
        await database.executions.add(an_execution(session_id="none"))
    with pytest.raises(RecordNotFoundError, match="no session 's-running'"):
        await database.executions.add(an_execution(session_id="s-running", owner="bob"))
    with pytest.raises(ConflictError, match="'e-running'"):
        await database.executions.add(an_execution("e-running", session_id="s-running"))


@pytest.mark.asyncio
async def test_another_owners_execution_looks_like_none(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution())
    assert await database.executions.get("e", owner="ann") == an_execution()
    for id, owner in (("e", "bob"), ("none", None)):
        with pytest.raises(RecordNotFoundError, match=f"there is no execution '{id}'"):
            await database.executions.get(id, owner=owner)


@pytest.mark.asyncio
async def test_quotas_count_those_that_have_not_finished(database: Database) -> None:
    executions = database.executions
    for session in ("s", "t"):
        await database.sessions.add(a_session(session))
    await executions.add(an_execution("e1"), per_session=2, per_owner=3)
    await executions.add(an_execution("e2"), per_session=2, per_owner=3)
    with pytest.raises(QuotaExceededError, match="2 executions in the session"):
        await executions.add(an_execution("e3"), per_session=2, per_owner=3)
    await executions.add(an_execution("e3", session_id="t"), per_session=2, per_owner=3)
    with pytest.raises(QuotaExceededError, match="3 executions already"):
        await executions.add(an_execution("e4", session_id="t"), per_session=2, per_owner=3)
    await executions.start("e1", NOW)
    assert await executions.count_unfinished("ann") == await executions.count_unfinished() == 3
    await executions.finish("e1", completed_at=NOW, status=ExecutionStatus.COMPLETED)
    assert await executions.count_unfinished("ann") == 2
    assert await executions.count_unfinished("bob") == 0
    await executions.add(an_execution("e4"), per_session=2, per_owner=3)
    assert [each.id for each in await executions.unfinished()] == ["e2", "e3", "e4"]
    assert [each.id for each in await executions.unfinished("t")] == ["e3"]


@pytest.mark.asyncio
async def test_an_execution_starts_once(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution(env_vars={"A": "b"}))
    started = await database.executions.start("e", later(1))
    assert started == an_execution(env_vars={"A": "b"}, status=ExecutionStatus.RUNNING, started_at=later(1))
    assert await database.executions.start("e", later(2)) is None
    assert await database.executions.get("e") == started
    with pytest.raises(RecordNotFoundError):
        await database.executions.start("none", NOW)


@pytest.mark.asyncio
async def test_its_end_its_last_words_and_their_number_are_written_at_once(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution(env_vars={"TOKEN": "hunter2"}))
    await database.executions.start("e", later(1))
    await database.events.append("e", [an_event(1, "a"), an_event(2, "b")])
    assert (await database.executions.get("e")).events == 2  # before it has finished
    artifact = Artifact(path="x", size=1, mime_type="a/b", type="artifact", created_at=NOW, checksum="sha256:0")
    finished = await database.executions.finish(
        "e",
        completed_at=later(2),
        status=ExecutionStatus.FAILED,
        reason=Reason.RAISED,
        exit_code=1,
        error_name="ValueError",
        error_message="no",
        execution_time=0.5,
        return_value=None,
        has_return_value=True,
        metrics=Metrics(duration_ms=500.0),
        artifacts=[artifact],
        truncated=True,
        last_events=[an_event(3, "c"), an_event(4, kind="end", data={"status": "failed"})],
    )
    assert finished == an_execution(
        status=ExecutionStatus.FAILED,
        reason=Reason.RAISED,
        exit_code=1,
        error_name="ValueError",
        error_message="no",
        execution_time=0.5,
        has_return_value=True,
        metrics=Metrics(duration_ms=500.0),
        artifacts=(artifact,),
        truncated=True,
        events=4,
        started_at=later(1),
        completed_at=later(2),
    )
    assert await database.executions.get("e") == finished
    assert [each.seq for each in await database.events.after("e", 0)] == [1, 2, 3, 4]
    again = await database.executions.finish(
        "e", completed_at=later(3), status=ExecutionStatus.CRASHED, last_events=[an_event(5, "too late")]
    )
    assert again is None
    assert await database.executions.get("e") == finished
    assert len(await database.events.after("e", 0)) == 4


@pytest.mark.asyncio
async def test_an_end_that_can_not_be_written_is_not_half_written(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution(env_vars={"A": "b"}))
    started = await database.executions.start("e", later(1))
    assert started is not None
    await database.events.append("e", [an_event(1)])
    with pytest.raises(ConflictError, match="event of that number"):
        await database.executions.finish(
            "e", completed_at=NOW, status=ExecutionStatus.COMPLETED, last_events=[an_event(2), an_event(1)]
        )
    assert await database.executions.get("e") == replace(started, events=1)


@pytest.mark.parametrize("first", ExecutionStatus)
@pytest.mark.asyncio
async def test_only_ends_that_are_allowed_are_taken(database: Database, first: ExecutionStatus) -> None:
    await database.sessions.add(a_session())
    for number, to in enumerate(ExecutionStatus):
        id = f"e{number}"
        await database.executions.add(an_execution(id, status=first))
        if first.is_final:
            assert await database.executions.finish(id, completed_at=NOW, status=to) is None
        elif to in EXECUTION_STEPS[first]:
            finished = await database.executions.finish(id, completed_at=NOW, status=to)
            assert finished is not None
            assert finished.status == to
        else:
            with pytest.raises(ConflictError, match=f"the execution is {first}, and can't become {to}"):
                await database.executions.finish(id, completed_at=NOW, status=to)
    with pytest.raises(RecordNotFoundError):
        await database.executions.finish("none", completed_at=NOW, status=ExecutionStatus.CRASHED)


@pytest.mark.asyncio
async def test_what_is_not_expected_to_run_is_not_ended(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution())
    only_waiting: dict[str, Any] = {
        "expect": [ExecutionStatus.PENDING],
        "completed_at": NOW,
        "status": ExecutionStatus.CRASHED,
    }
    await database.executions.start("e", NOW)
    assert await database.executions.finish("e", **only_waiting) is None
    assert (await database.executions.get("e")).status == ExecutionStatus.RUNNING


@pytest.mark.asyncio
async def test_the_list_of_a_session_is_complete_and_newest_first(database: Database) -> None:
    for session in ("s", "t"):
        await database.sessions.add(a_session(session))
        for number in range(5):
            await database.executions.add(
                an_execution(f"{session}{number}", session_id=session, created_at=later(number // 2))
            )
    await database.events.append("s4", [an_event(1, execution_id="s4")])
    first = await database.executions.list("s", limit=3)
    assert [each.id for each in first.items] == ["s4", "s3", "s2"]
    assert [each.events for each in first.items] == [1, 0, 0]
    second = await database.executions.list("s", limit=3, cursor=first.next_cursor)
    assert [each.id for each in second.items] == ["s1", "s0"]
    assert (first.total, second.total, second.next_cursor) == (5, 5, None)
    assert [each.id for each in (await database.executions.list("s", limit=2, offset=4)).items] == ["s0"]
    assert (await database.executions.list("none", limit=2)).total == 0
