"""Opening, and what can be wrong with it."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import sqlite3
import stat
from pathlib import Path

import pytest

from ipybox.control.db.database import Database, transactions_of
from ipybox.control.db.sessions import Sessions
from ipybox.control.errors import NoCapacityError, RecordNotFoundError, ServerSettingsError, StorageFullError
from tests.control.made import a_session, later
from tests.control.postgres_server import PostgresServer


@pytest.mark.asyncio
async def test_what_was_written_is_there_when_it_is_opened_again(database_url: str) -> None:
    async with Database(database_url) as database:
        await database.sessions.add(a_session())
        assert await database.check() > 0
        assert database.dialect == database_url.partition(":")[0]
    async with Database(database_url) as database:
        assert await database.sessions.get("s") == a_session()


@pytest.mark.parametrize(
    "url", ["", "mysql://localhost/x", "sqlite:///", "sqlite:///:memory:", "postgresql+psycopg://localhost/x", "x"]
)
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(ServerSettingsError) as caught:
        Database(url)
    assert caught.value.setting == "database_url"


@pytest.mark.parametrize("prefix", ["sqlite:///", "sqlite+aiosqlite:///"])
@pytest.mark.asyncio
async def test_a_path_is_taken_as_it_is(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "a b%20?c=1#d.db"
    async with Database(f"{prefix}{path}"):
        assert path.exists()


@pytest.mark.asyncio
async def test_only_the_owner_may_read_the_file(sqlite_url: str, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with Database(sqlite_url) as database:
            await database.sessions.add(a_session())
            files = list(tmp_path.iterdir())
            assert {file.name for file in files} >= {"ipybox.db", "ipybox.db-wal"}
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(before)


@pytest.mark.asyncio
async def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerSettingsError, match=re.escape(f"{tmp_path}/none/x.db can't be used")):
        async with Database(f"sqlite:///{tmp_path}/none/x.db"):
            pass


@pytest.mark.asyncio
async def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("remember the milk\n" * 100)
    with pytest.raises(ServerSettingsError, match="not a database"):
        async with Database(f"sqlite:///{file}"):
            pass
    assert file.read_text() == "remember the milk\n" * 100


@pytest.mark.asyncio
async def test_a_new_file_that_another_process_is_working_on_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(NoCapacityError, match="busy"):
        async with Database(f"sqlite:///{tmp_path}/x.db", timeout=0.02):
            pass
    database = Database(f"sqlite:///{tmp_path}/x.db")
    opening = asyncio.ensure_future(database.__aenter__())
    await asyncio.wait([opening], timeout=0.05)
    assert not opening.done()
    other.close()
    await opening
    await database.sessions.add(a_session())
    await database.__aexit__(None, None, None)


@pytest.mark.asyncio
async def test_reading_does_not_wait_for_who_writes(sqlite_url: str, tmp_path: Path) -> None:
    async with Database(sqlite_url) as database:
        await database.sessions.add(a_session())
        other = sqlite3.connect(tmp_path / "ipybox.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.ensure_future(database.sessions.touch("s", later(1), later(2)))
        for _ in range(20):
            assert (await database.sessions.get("s")).last_activity_at == later(0)
        assert not writing.done()
        other.execute("COMMIT")
        other.close()
        assert await writing
        assert (await database.sessions.get("s")).last_activity_at == later(1)


@pytest.mark.asyncio
async def test_who_writes_does_not_wait_for_ever(sqlite_url: str, tmp_path: Path) -> None:
    async with Database(sqlite_url, timeout=0.05) as database:
        other = sqlite3.connect(tmp_path / "ipybox.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NoCapacityError, match="busy"):
            await database.sessions.add(a_session())
        other.close()
        await database.sessions.add(a_session())


@pytest.mark.asyncio
async def test_who_is_cancelled_leaves_a_database_that_works(database: Database) -> None:
    await database.sessions.add(a_session())
    for number in range(100):
        task = asyncio.ensure_future(database.sessions.touch("s", later(number), later(number)))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result()  # it may have been quicker
    assert await database.sessions.touch("s", later(1000), later(1001))
    assert (await database.sessions.get("s")).expires_at == later(1001)


@pytest.mark.asyncio
async def test_what_has_begun_is_done_though_nobody_waits_for_it(
    postgres: PostgresServer, postgres_url: str, migrated: str
) -> None:
    async with Database(postgres_url) as database:
        await database.sessions.add(a_session())
        with postgres.holding(migrated, "UPDATE sessions SET detail = 'x'"):
            task = asyncio.ensure_future(database.sessions.touch("s", later(1), later(2)))
            await postgres.until_it_waits(task)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (await database.sessions.get("s")).expires_at == later(2)


@pytest.mark.asyncio
async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    await database.sessions.add(a_session(tags={"a": "b"}))
    for _ in range(30):
        with pytest.raises(RecordNotFoundError):
            await database.sessions.remove("another")
        with pytest.raises(Exception, match="already"):
            await database.sessions.add(a_session(tags={"c": "d"}))
    assert (await database.sessions.list(limit=9)).total == 1


@pytest.mark.asyncio
async def test_a_full_disk_is_said_and_takes_nothing_away(sqlite_url: str) -> None:
    transactions = transactions_of(sqlite_url)
    sessions = Sessions(transactions)
    pages = await transactions.write(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    await transactions.write(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 20}"))
    added = []
    with pytest.raises(StorageFullError):
        for number in range(1000):
            await sessions.add(a_session(f"s{number}", detail="x" * 1000))
            added.append(f"s{number}")
    assert len(added) > 1
    assert [each.id for each in await sessions.alive()] == sorted(added)
    await sessions.remove(added.pop())
    assert [each.id for each in await sessions.alive()] == sorted(added)
    await transactions.close()


@pytest.mark.asyncio
async def test_a_disk_that_fails_is_said_and_takes_nothing_away(sqlite_database: Database, tmp_path: Path) -> None:
    sessions = sqlite_database.sessions
    await sessions.add(a_session("s"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "ipybox.db-wal").stat().st_size + 2000, hard))
    try:
        with pytest.raises(NoCapacityError, match="does not answer"):
            await sessions.add(a_session("t", detail="x" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await sessions.add(a_session("u"))
    assert [each.id for each in await sessions.alive()] == ["s", "u"]


@pytest.mark.asyncio
async def test_a_server_that_restarts_is_survived(postgres: PostgresServer, postgres_url: str, migrated: str) -> None:
    async with Database(postgres_url) as database:
        await asyncio.gather(*(database.sessions.add(a_session(f"s{number}")) for number in range(20)))
        postgres.restart()
        assert len(await database.sessions.alive()) == 20
        await database.sessions.add(a_session("t"))
        postgres.restart(crash=True)
        await database.sessions.add(a_session("u"))
        assert len(await database.sessions.alive()) == 22
        postgres.stop()
        try:
            for _ in range(2):
                with pytest.raises(NoCapacityError, match="does not answer"):
                    await database.sessions.get("t")
                with pytest.raises(NoCapacityError, match="does not answer"):
                    await database.sessions.add(a_session("v"))
                with pytest.raises(NoCapacityError, match="does not answer"):
                    await database.check()
            with pytest.raises(NoCapacityError, match="does not answer"):
                async with Database(postgres_url):
                    pass
        finally:
            postgres.start()
        assert len(await database.sessions.alive()) == 22


@pytest.mark.asyncio
async def test_work_that_a_server_crash_cuts_off_fails_and_the_rest_is_kept(
    postgres: PostgresServer, postgres_url: str, migrated: str
) -> None:
    added: list[str] = []
    enough = asyncio.Event()
    async with Database(postgres_url) as database:

        async def write(prefix: str) -> None:
            for number in range(100_000):
                try:
                    await database.sessions.add(a_session(f"{prefix}{number}"), per_owner=100_000)
                except NoCapacityError:
                    return
                added.append(f"{prefix}{number}")
                if len(added) == 50:
                    enough.set()

        writers = [asyncio.ensure_future(write(prefix)) for prefix in "abcd"]
        await enough.wait()
        try:
            await asyncio.to_thread(postgres.stop, signal.SIGQUIT)
            await asyncio.gather(*writers)
        finally:
            postgres.start()
        kept = {session.id for session in await database.sessions.alive()}
        assert kept >= set(added)
        assert len(kept) <= len(added) + 4  # a commit whose answer was lost


@pytest.mark.asyncio
async def test_a_server_that_hangs_is_given_up(postgres: PostgresServer, postgres_url: str, migrated: str) -> None:
    async with Database(postgres_url, timeout=0.2) as database:
        await database.sessions.add(a_session())
        with postgres.holding(migrated, "LOCK TABLE sessions"), pytest.raises(NoCapacityError, match="does not answer"):
            await database.sessions.get("s")
        assert await database.sessions.get("s") == a_session()


@pytest.mark.asyncio
async def test_a_database_that_is_not_there_is_a_matter_of_settings(postgres: PostgresServer) -> None:
    url = postgres.url("nowhere").replace("ipybox@", "ipybox:hunter2@")
    with pytest.raises(ServerSettingsError, match='database "nowhere" does not exist') as caught:
        async with Database(url):
            pass
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["postgresql://", "postgres://", "postgresql+asyncpg://"])
@pytest.mark.asyncio
async def test_a_url_of_libpq_works(postgres: PostgresServer, postgres_url: str, migrated: str, prefix: str) -> None:
    url = postgres_url.replace("postgresql://", prefix)
    async with Database(f"{url}&sslmode=disable&application_name=box") as database:
        assert await database.sessions.count_alive() == 0


@pytest.mark.asyncio
async def test_a_url_that_can_not_be_read_is_refused() -> None:
    with pytest.raises(ServerSettingsError):
        async with Database("postgresql://localhost:port/x"):
            pass
