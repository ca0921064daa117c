from __future__ import annotations

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import ConflictError, RecordNotFoundError
from ipybox.control.records import ExecutionEvent
from ipybox.control.states import ExecutionStatus
from tests.control.made import NOW, a_session, an_event, an_execution


@pytest.mark.asyncio
async def test_who_reads_with_a_cursor_sees_each_event_once_and_in_order(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution())
    written = tuple(an_event(seq, str(seq)) for seq in range(1, 26))
    for begin in range(0, 25, 10):
        await database.events.append("e", written[begin : begin + 10])
    read: tuple[ExecutionEvent, ...] = ()
    while part := await database.events.after("e", read[-1].seq if read else 0, limit=7):
        assert len(part) <= 7
        read += part
    assert read == written
    assert await database.events.after("e", 2**80) == ()
    assert await database.events.after("e", -(2**80), limit=1) == written[:1]
    assert await database.events.after("none", 0) == ()


@pytest.mark.asyncio
async def test_events_are_added_all_or_none(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution())
    await database.events.append("e", [an_event(1)])
    await database.events.append("e", [])
    with pytest.raises(ConflictError, match="event of that number"):
        await database.events.append("e", [an_event(2), an_event(1)])
    with pytest.raises(RecordNotFoundError, match="no execution 'none'"):
        await database.events.append("none", [an_event(1, execution_id="none")])
    with pytest.raises(ValueError, match="another execution"):
        await database.events.append("e", [an_event(2, execution_id="other")])
    assert await database.events.after("e", 0) == (an_event(1),)


@pytest.mark.asyncio
async def test_nothing_follows_the_end(database: Database) -> None:
    await database.sessions.add(a_session())
    await database.executions.add(an_execution())
    await database.executions.finish("e", completed_at=NOW, status=ExecutionStatus.CRASHED, last_events=[an_event(1)])
    with pytest.raises(ConflictError, match="the execution is crashed"):
        await database.events.append("e", [an_event(2)])
    assert (await database.executions.get("e")).events == len(await database.events.after("e", 0)) == 1


@pytest.mark.asyncio
async def test_the_output_is_what_was_written_to_each_stream(database: Database) -> None:
    await database.sessions.add(a_session())
    for id in ("e", "f", "silent"):
        await database.executions.add(an_execution(id))
    await database.events.append(
        "e",
        [
            an_event(1, "o\0ne\n"),
            an_event(2, "oops\n", kind="stderr"),
            an_event(3, kind="display", data={"data": {"text/plain": "x"}}),
            an_event(4, "t\ud83d"),
            an_event(5, "\ude00wo\n"),
        ],
    )
    await database.events.append("f", [an_event(seq, f"{seq},", execution_id="f") for seq in range(1, 12)])
    many = ["e", "f", "silent", "none", *(f"none{number}" for number in range(2000))]
    output = await database.events.output(many)
    assert list(output) == many
    assert output["e"] == ("o\0ne\nt\ud83d\ude00wo\n", "oops\n")
    assert output["f"] == ("1,2,3,4,5,6,7,8,9,10,11,", "")
    assert output["silent"] == output["none"] == ("", "")
    assert await database.events.output([]) == {}
