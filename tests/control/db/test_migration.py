"""The form of the tables."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from ipybox.control.db.database import Database, transactions_of
from ipybox.control.db.migration import HEAD, VERSION_TABLE, configuration, revision, upgrade
from ipybox.control.db.tables import metadata
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import ServerSettingsError

CHECKOUT = Path(__file__).parents[3]


@pytest_asyncio.fixture
async def transactions(new_url: str) -> AsyncIterator[Transactions]:
    """Of a database that has no tables."""
    made = transactions_of(new_url)
    try:
        yield made
    finally:
        await made.close()


def table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"sqlite_sequence"}


@pytest.mark.asyncio
async def test_migrations_make_exactly_the_tables_that_the_code_knows(transactions: Transactions) -> None:
    def work(connection: Connection) -> bool:
        assert upgrade(connection)
        command.check(configuration(connection))
        assert not upgrade(connection)
        assert revision(connection) == HEAD == ScriptDirectory.from_config(configuration(connection)).get_current_head()
        return True

    await transactions.migrate(work)


@pytest.mark.asyncio
async def test_a_column_that_no_migration_makes_is_found(transactions: Transactions) -> None:
    def work(connection: Connection) -> bool:
        upgrade(connection)
        connection.execute(text("ALTER TABLE sessions DROP COLUMN detail"))
        with pytest.raises(Exception, match="detail"):
            command.check(configuration(connection))
        return True

    await transactions.migrate(work)


@pytest.mark.asyncio
async def test_a_migration_can_be_taken_back(transactions: Transactions) -> None:
    def work(connection: Connection) -> bool:
        upgrade(connection)
        assert table_names(connection) == {*metadata.tables, VERSION_TABLE}
        command.downgrade(configuration(connection), "base")
        assert table_names(connection) == {VERSION_TABLE}
        assert upgrade(connection)
        assert table_names(connection) == {*metadata.tables, VERSION_TABLE}
        return True

    await transactions.migrate(work)


@pytest.mark.asyncio
async def test_a_migration_that_fails_leaves_nothing(transactions: Transactions) -> None:
    def fail(connection: Connection) -> bool:
        upgrade(connection)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await transactions.migrate(fail)
    assert await transactions.read(table_names) == set()


@pytest.mark.asyncio
async def test_references_to_nothing_are_not_left_behind(tmp_path: Path) -> None:
    transactions = transactions_of(f"sqlite:///{tmp_path}/x.db")

    def work(connection: Connection) -> bool:
        upgrade(connection)
        connection.execute(text("INSERT INTO session_tags VALUES ('nobody', x'00')"))
        return True

    with pytest.raises(ServerSettingsError, match="session_tags"):
        await transactions.migrate(work)
    await transactions.close()


@pytest.mark.asyncio
async def test_the_database_of_a_later_version_is_refused(new_url: str) -> None:
    async with Database(new_url):
        pass
    transactions = transactions_of(new_url)
    await transactions.write(
        lambda connection: connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'v9999'"))
    )
    await transactions.close()
    with pytest.raises(
        ServerSettingsError, match=f"v9999, which a later version of ipybox gave it; .* {HEAD}"
    ) as caught:
        async with Database(new_url):
            pass
    assert caught.value.setting == "database_url"


@pytest.mark.asyncio
async def test_many_may_open_a_new_database_at_once(new_url: str) -> None:
    async def in_a_process() -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.control.db.worker", "open", new_url), cwd=CHECKOUT, stdout=-1
        )
        output, _ = await process.communicate()
        return output.decode()

    async def here() -> str:
        async with Database(new_url) as database:
            await database.sessions.count_alive()
        return "opened\n"

    assert set(await asyncio.gather(*(in_a_process() for _ in range(3)), *(here() for _ in range(5)))) == {"opened\n"}
