"""The audit log, with a real database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from ipybox.control.access.audit import AuditLog, entry_of
from ipybox.control.access.scopes import LOCAL
from ipybox.control.db.database import Database
from ipybox.control.records import AuditEntry


def entry(action: str = "session.create", target: str = "s", **detail: Any) -> AuditEntry:
    return entry_of(LOCAL, action, target, 201, address="127.0.0.1", request_id="r", detail=detail)


async def kept(database: Database) -> list[AuditEntry]:
    return list((await database.audit.list(limit=5000)).items)[::-1]


class Trouble:
    """The table, failing as long as it is told to."""

    def __init__(self, database: Database) -> None:
        self.table = database.audit
        self.fails = True
        self.tried = asyncio.Event()
        self.appended = asyncio.Event()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        self.tried.set()
        if self.fails:
            raise OSError("the database is gone")
        await self.table.append(entries)
        self.begun.set()
        await self.go_on.wait()
        self.appended.set()


@pytest.mark.asyncio
async def test_nothing_is_lost_when_the_server_stops(sqlite_database: Database) -> None:
    async with AuditLog(sqlite_database.audit, batch_seconds=3600) as audit:
        for number in range(1200):
            audit.note(entry(target=str(number)))
        assert await kept(sqlite_database) == []
    assert [each.target for each in await kept(sqlite_database)] == [str(number) for number in range(1200)]


@pytest.mark.asyncio
async def test_entries_are_written_soon_without_anybody_asking(sqlite_database: Database) -> None:
    table = Trouble(sqlite_database)
    table.fails = False
    async with AuditLog(table, batch_seconds=0.01) as audit:
        audit.note(entry())
        await asyncio.wait_for(table.appended.wait(), 20)
        (found,) = await kept(sqlite_database)
    assert (found.actor, found.owner, found.action, found.outcome) == ("local", "local", "session.create", 201)


@pytest.mark.asyncio
async def test_what_is_done_to_keys_is_written_before_it_is_answered(sqlite_database: Database) -> None:
    async with AuditLog(sqlite_database.audit, batch_seconds=3600) as audit:
        audit.note(entry())
        with pytest.raises(ValueError, match="write"):
            audit.note(entry("key.create"))
        await audit.write(entry("key.create"))
        assert [each.action for each in await kept(sqlite_database)] == ["session.create", "key.create"]
        await asyncio.gather(*(audit.write(entry("key.revoke")) for _ in range(20)))
        assert len(await kept(sqlite_database)) == 22


@pytest.mark.asyncio
async def test_a_database_that_is_away_for_a_while_loses_nothing(sqlite_database: Database) -> None:
    table = Trouble(sqlite_database)
    async with AuditLog(table, batch_seconds=0.01) as audit:
        audit.note(entry(target="a"))
        await asyncio.wait_for(table.tried.wait(), 20)
        with pytest.raises(OSError, match="gone"):
            await audit.write(entry("key.create", target="b"))
        table.fails = False
        await asyncio.wait_for(table.appended.wait(), 20)
        audit.note(entry(target="c"))
    assert [each.target for each in await kept(sqlite_database)] == ["a", "b", "c"]


@pytest.mark.asyncio
async def test_who_is_cancelled_while_it_is_written_writes_it_once(sqlite_database: Database) -> None:
    table = Trouble(sqlite_database)
    table.fails = False
    table.go_on.clear()
    async with AuditLog(table) as audit:
        task = asyncio.create_task(audit.write(entry("key.create")))
        await table.begun.wait()
        task.cancel()
        table.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(await kept(sqlite_database)) == 1


@pytest.mark.asyncio
async def test_neither_code_nor_environments_nor_secrets_are_in_it(
    sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    key = f"ipybox_{'a' * 12}_{'b' * 52}"
    with caplog.at_level(logging.INFO, "ipybox.audit"):
        async with AuditLog(sqlite_database.audit) as audit:
            audit.note(
                entry(
                    target=f"x\n{key}",
                    code="print('hunter2')",
                    env_vars={"A": "hunter2"},
                    nested={"default_env_vars": {"A": "hunter2"}, "list": [{"password": "hunter2"}]},
                    url="postgresql://u:hunter2@h/d",
                    names=["A"],
                    long="x" * 10_000,
                )
            )
    (found,) = await kept(sqlite_database)
    said = repr(found) + repr([vars(record) for record in caplog.records])
    assert "hunter2" not in said
    assert "b" * 20 not in said
    assert "\n" not in found.target
    assert len(found.detail["long"]) == 300
    assert found.detail["names"] == ["A"]


@pytest.mark.asyncio
async def test_each_entry_is_a_line_in_the_servers_log_as_well(
    sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ipybox.audit"):
        async with AuditLog(sqlite_database.audit) as audit:
            audit.note(entry(target="s1"))
    facts = vars(caplog.records[0])
    assert (facts["action"], facts["target"], facts["actor"]) == ("session.create", "s1", "local")
