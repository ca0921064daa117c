from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import ConflictError, NoCapacityError, RecordNotFoundError
from tests.control.made import a_key, later


@pytest.mark.asyncio
async def test_keys_are_found_by_id_and_owner(database: Database) -> None:
    await database.keys.add(a_key("a"))
    await database.keys.add(a_key("b", owner="bob", created_at=later(-1)))
    with pytest.raises(ConflictError, match="'a'"):
        await database.keys.add(a_key("a", owner="bob"))
    assert await database.keys.get("a") == a_key("a")
    assert [each.id for each in await database.keys.list()] == ["b", "a"]
    assert [each.id for each in await database.keys.list("ann")] == ["a"]
    assert await database.keys.list("nobody") == ()
    with pytest.raises(RecordNotFoundError, match="no key 'c'"):
        await database.keys.get("c")


@pytest.mark.asyncio
async def test_a_key_can_be_changed_but_stays_its_owners(database: Database) -> None:
    await database.keys.add(a_key())
    changed = await database.keys.change("k", revoked_at=later(1), scopes=("a",), max_sessions=3)
    assert changed == a_key(revoked_at=later(1), scopes=("a",), max_sessions=3)
    assert await database.keys.get("k") == await database.keys.change("k") == changed
    with pytest.raises(TypeError, match="owner"):
        await database.keys.change("k", owner="bob")
    with pytest.raises(RecordNotFoundError):
        await database.keys.change("none", name="x")


@pytest.mark.asyncio
async def test_a_key_is_rotated_once_and_never_without_another_in_its_place(database: Database) -> None:
    await database.keys.add(a_key("a"))
    await database.keys.add(a_key("b"))
    with pytest.raises(ConflictError, match="'b'"):
        await database.keys.rotate("a", a_key("b", rotated_from="a"), later(1))
    assert await database.keys.get("a") == a_key("a")
    await database.keys.rotate("a", a_key("c", rotated_from="a"), later(1))
    assert await database.keys.get("a") == a_key("a", revoked_at=later(1))
    assert await database.keys.get("c") == a_key("c", rotated_from="a")
    with pytest.raises(ConflictError, match="revoked"):
        await database.keys.rotate("a", a_key("d"), later(2))
    with pytest.raises(RecordNotFoundError):
        await database.keys.rotate("none", a_key("d"), later(2))


@pytest.mark.asyncio
async def test_the_use_of_a_key_is_written_once_a_minute(database_url: str) -> None:
    async with Database(database_url) as database:
        await database.keys.add(a_key())
        for seconds, noted in ((0, 0), (1, 0), (59, 0), (60, 60), (61, 60), (3600, 3600)):
            await database.keys.used("k", later(seconds))
            assert await database.keys.get("k") == replace(a_key(), last_used_at=later(noted))
    async with Database(database_url) as database:  # which has to look
        await database.keys.used("k", later(3601))
        assert (await database.keys.get("k")).last_used_at == later(3600)
        await database.keys.used("gone", later(0))


@pytest.mark.asyncio
async def test_a_key_that_was_used_just_now_is_not_waited_for(sqlite_url: str) -> None:
    async with Database(sqlite_url, timeout=0.02) as database:
        await database.keys.add(a_key())
        await database.keys.used("k", later(0))
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await database.keys.used("k", later(59))
        with pytest.raises(NoCapacityError):
            await database.keys.used("k", later(60))
        other.close()
        await database.keys.used("k", later(61))  # what failed was not taken for done
        assert (await database.keys.get("k")).last_used_at == later(61)
