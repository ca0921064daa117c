"""Keys: minted, verified, rotated, revoked; with a real database."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.access.keys import CACHE_SECONDS, REFUSED, KeyRing, mint, parse_key
from ipybox.control.access.scopes import Scope
from ipybox.control.db.database import Database
from ipybox.control.errors import ConflictError, RecordNotFoundError, RequestRefusedError, UnauthenticatedError
from ipybox.control.records import ApiKey

LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


class Watched:
    """The table of a database, counting what is asked of it."""

    def __init__(self, database: Database) -> None:
        self.table = database.keys
        self.gets = 0
        self.uses = 0
        self.read = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.change_fails = False
        self.revoked_meanwhile = False

    async def add(self, key: ApiKey) -> None:
        await self.table.add(key)

    async def get(self, id: str) -> ApiKey:
        self.gets += 1
        gate = self.gate
        try:
            return await self.table.get(id)
        finally:
            self.read.set()
            if gate is not None:
                await gate.wait()

    async def list(self, owner: str | None = None) -> tuple[ApiKey, ...]:
        return await self.table.list(owner)

    async def change(self, id: str, **fields: Any) -> ApiKey:
        if self.change_fails and "expires_at" in fields:
            raise OSError("the database is gone")
        if self.revoked_meanwhile and "expires_at" in fields:
            await self.table.change(id, revoked_at=datetime.now(UTC))
        return await self.table.change(id, **fields)

    async def used(self, id: str, at: datetime) -> None:
        self.uses += 1
        await self.table.used(id, at)


async def refused(ring: KeyRing, text: str, now: datetime | None = None) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await ring.verify(text, now)
    assert caught.value.reason == REFUSED
    assert caught.value.__cause__ is None
    assert text == "" or text not in "".join(traceback.format_exception(caught.value))


# ---- how they are written ---------------------------------------------------------------------------------------


def test_a_key_is_read_as_it_was_written() -> None:
    key, text = mint(name="a")
    assert parse_key(text) == (key.id, text.rpartition("_")[2])
    assert len(key.id) == 12
    assert len(text.rpartition("_")[2]) * 5 >= 256
    assert text.replace("_", "").isalnum()


def test_no_two_keys_are_the_same() -> None:
    texts = {mint(name="a")[1] for _ in range(200)}
    assert len({text.split("_")[1] for text in texts}) == len({text.split("_")[2] for text in texts}) == 200


def test_the_secret_is_in_no_record_and_no_repr() -> None:
    key, text = mint(name="a")
    secret = text.rpartition("_")[2]
    assert secret not in repr(key) + str(vars(type(key)))
    assert key.secret_hash not in repr(key)
    assert all(secret not in str(getattr(key, name)) for name in ("id", "owner", "secret_hash", "scopes"))


@given(st.text(alphabet=LETTERS, min_size=12, max_size=12), st.text(alphabet=LETTERS, min_size=52, max_size=52))
def test_every_key_of_the_right_form_is_taken_apart(id: str, secret: str) -> None:
    assert parse_key(f"ipybox_{id}_{secret}") == (id, secret)


@given(st.text())
def test_nothing_else_is_a_key(text: str) -> None:
    assert parse_key(text) is None
    good = mint(name="a")[1]
    for wrong in (good + text, text + good):
        assert parse_key(wrong) == (parse_key(good) if not text else None)


@pytest.mark.parametrize(
    "change", [str.upper, lambda text: text + "\n", lambda text: text[:-1], lambda text: text + "a"]
)
def test_what_is_nearly_a_key_is_none(change: Any) -> None:
    assert parse_key(change(mint(name="a")[1])) is None


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", {"name": "a\nb"}),
        ("name", {"name": "a" * 256}),
        ("name", {"name": "\x1b[31m"}),
        ("owner", {"owner": "../x"}),
        ("owner", {"owner": ""}),
        ("owner", {"owner": "ä"}),
        ("scopes", {"scopes": ["root"]}),
        ("expires_at", {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}),
        ("expires_at", {"expires_at": datetime(2100, 1, 1)}),
        ("max_sessions", {"max_sessions": -1}),
    ],
)
def test_keys_that_make_no_sense_are_refused_by_field(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        mint(**{"name": "a", **wrong})
    assert caught.value.field == field


# ---- verified ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_key_says_who_asks_and_what_he_may(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        key, text = await ring.create(
            name="ci", scopes=["read", "templates"], owner="team", max_sessions=3, max_executions=4
        )
        who = await ring.verify(text)
        assert (who.owner, who.key_id, who.name, who.max_sessions, who.max_executions) == ("team", key.id, "ci", 3, 4)
        assert who.scopes == {Scope.READ, Scope.TEMPLATES}
        assert text.rpartition("_")[2] not in repr(who)
    assert (await sqlite_database.keys.get(key.id)).last_used_at is not None


@pytest.mark.asyncio
async def test_a_key_without_an_owner_sees_only_what_is_its_own(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        owners = {(await ring.verify((await ring.create(name="a"))[1])).owner for _ in range(3)}
    assert len(owners) == 3


@pytest.mark.asyncio
async def test_whatever_is_wrong_with_a_key_is_not_said(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        key, good = await ring.create(name="a", expires_at=datetime.now(UTC) + timedelta(hours=1))
        revoked, revoked_text = await ring.create(name="b")
        await ring.revoke(revoked.id)
        head, _, secret = good.rpartition("_")
        other = secret[:-1] + ("a" if secret[-1] != "a" else "b")
        for text in ("", "nonsense", f"{head}_{other}", mint(name="c")[1], revoked_text, f"ipybox_{key.id}_"):
            await refused(ring, text)
        await refused(ring, good, datetime.now(UTC) + timedelta(hours=2))
        assert key.expires_at is not None
        await refused(ring, good, key.expires_at)
        await ring.verify(good, key.expires_at - timedelta(microseconds=1))


@pytest.mark.asyncio
async def test_the_secret_of_another_key_does_not_count(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        one, two = [(await ring.create(name="a"))[1] for _ in range(2)]
        await refused(ring, "_".join([*one.split("_")[:2], two.split("_")[2]]))


@pytest.mark.asyncio
async def test_a_key_in_use_costs_no_query_and_no_write_each_time(sqlite_database: Database) -> None:
    table, time = Watched(sqlite_database), [0.0]
    async with KeyRing(table, clock=lambda: time[0]) as ring:
        _, text = await ring.create(name="a")
        for _ in range(50):
            await ring.verify(text)
        assert table.gets == 1
        time[0] += CACHE_SECONDS
        await ring.verify(text)
        assert table.gets == 2
    assert table.uses == 1


@pytest.mark.asyncio
async def test_unknown_ids_ask_the_database_as_often_as_known_ones(sqlite_database: Database) -> None:
    table = Watched(sqlite_database)
    async with KeyRing(table) as ring:
        text = mint(name="a")[1]
        for _ in range(5):
            await refused(ring, text)
        assert table.gets == 1
        _, known = await ring.create(name="b")
        for _ in range(5):
            await refused(ring, known[:-2] + ("aa" if known[-2:] != "aa" else "bb"))
        assert table.gets == 2


@pytest.mark.asyncio
async def test_a_scope_of_a_later_version_gives_no_rights(sqlite_database: Database) -> None:
    key, text = mint(name="a")
    await sqlite_database.keys.add(key)
    await sqlite_database.keys.change(key.id, scopes=("read", "future"))
    async with KeyRing(sqlite_database.keys) as ring:
        assert (await ring.verify(text)).scopes == {Scope.READ}


# ---- revoked and rotated ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_revoked_key_is_refused_at_once(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys, cache_seconds=3600) as ring:
        key, text = await ring.create(name="a")
        await ring.verify(text)
        revoked = await ring.revoke(key.id)
        await refused(ring, text)
        assert revoked.revoked_at is not None
        assert (await ring.revoke(key.id)).revoked_at == revoked.revoked_at
        assert [each.id for each in await ring.list()] == [key.id]


@pytest.mark.asyncio
async def test_a_key_that_was_being_looked_up_when_it_was_revoked_is_not_kept(sqlite_database: Database) -> None:
    table = Watched(sqlite_database)
    async with KeyRing(table, cache_seconds=3600) as ring:
        key, text = await ring.create(name="a")
        table.gate = gate = asyncio.Event()
        looking = asyncio.create_task(ring.verify(text))
        await table.read.wait()  # it has the key as it was, and has not gone on
        table.gate = None
        await ring.revoke(key.id)
        gate.set()
        await looking
        await refused(ring, text)


@pytest.mark.asyncio
async def test_what_another_process_revokes_counts_after_a_moment(sqlite_database: Database) -> None:
    time = [0.0]
    async with KeyRing(sqlite_database.keys, clock=lambda: time[0]) as ring:
        key, text = await ring.create(name="a")
        await ring.verify(text)
        await sqlite_database.keys.change(key.id, revoked_at=datetime.now(UTC))
        await ring.verify(text)
        time[0] += 1.0
        await refused(ring, text)


@pytest.mark.asyncio
async def test_a_key_that_was_rotated_is_refused_after_the_overlap(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        old, old_text = await ring.create(name="a", scopes=["execute"], owner="team", max_sessions=2)
        new, new_text = await ring.rotate(old.id, overlap_seconds=60)
        now = datetime.now(UTC)
        assert (await ring.verify(old_text)).owner == (await ring.verify(new_text)).owner == "team"
        await refused(ring, old_text, now + timedelta(seconds=61))
        await ring.verify(new_text, now + timedelta(seconds=61))
        assert (new.scopes, new.max_sessions, new.rotated_from, new.name) == (("execute",), 2, old.id, "a")


@pytest.mark.asyncio
async def test_rotation_without_overlap_ends_the_old_key_and_never_prolongs_it(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        end = datetime.now(UTC) + timedelta(seconds=60)
        old, old_text = await ring.create(name="a", expires_at=end)
        new, _ = await ring.rotate(old.id, overlap_seconds=3600)
        assert (await sqlite_database.keys.get(old.id)).expires_at == end
        assert new.expires_at is not None
        assert new.expires_at - new.created_at == end - old.created_at
        await ring.rotate(old.id)
        await refused(ring, old_text)
        with pytest.raises(ConflictError):
            await ring.rotate(old.id)


@pytest.mark.asyncio
async def test_a_rotation_that_fails_leaves_no_second_key(sqlite_database: Database) -> None:
    table = Watched(sqlite_database)
    async with KeyRing(table) as ring:
        old, text = await ring.create(name="a")
        table.change_fails = True
        with pytest.raises(OSError, match="gone"):
            await ring.rotate(old.id)
        await ring.verify(text)
        assert [key.id for key in await ring.list() if key.revoked_at is None] == [old.id]


@pytest.mark.asyncio
async def test_a_key_that_is_revoked_while_it_is_rotated_has_no_successor(sqlite_database: Database) -> None:
    table = Watched(sqlite_database)
    async with KeyRing(table) as ring:
        old, _ = await ring.create(name="a")
        table.revoked_meanwhile = True
        with pytest.raises(ConflictError, match="revoked"):
            await ring.rotate(old.id, overlap_seconds=60)
        assert [key.id for key in await ring.list() if key.revoked_at is None] == []


@pytest.mark.asyncio
async def test_keys_that_there_are_not_are_no_keys(sqlite_database: Database) -> None:
    async with KeyRing(sqlite_database.keys) as ring:
        for call in (ring.revoke, ring.rotate):
            with pytest.raises(RecordNotFoundError):
                await call("nothing")
        with pytest.raises(RequestRefusedError):
            await ring.rotate("nothing", overlap_seconds=-1)


@pytest.mark.asyncio
async def test_a_database_that_fails_lets_nobody_in(sqlite_database: Database) -> None:
    class Broken(Watched):
        async def get(self, id: str) -> ApiKey:
            raise OSError("the database is gone")

    async with KeyRing(Broken(sqlite_database)) as ring:
        _, text = await ring.create(name="a")
        for _ in range(2):
            with pytest.raises(OSError, match="gone"):
                await ring.verify(text)
