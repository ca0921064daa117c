from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from ipybox.control.db.database import Database
from ipybox.control.db.sessions import SessionFilter
from ipybox.control.errors import (
    ConflictError,
    NoCapacityError,
    QuotaExceededError,
    RecordNotFoundError,
    RequestRefusedError,
)
from ipybox.control.records import Dependency, NetworkRules, ResourceLimits
from ipybox.control.states import SESSION_STEPS, InstallStatus, Reason, SessionMode, SessionStatus
from tests.control.made import a_session, a_template, an_event, an_execution, later


async def ids(database: Database, **wanted: Any) -> list[str]:
    page = await database.sessions.list(SessionFilter(**wanted), limit=100)
    assert page.total == len(page.items)
    return [session.id for session in page.items]


@pytest.mark.asyncio
async def test_of_very_many_names_those_of_sessions_are_told(database: Database) -> None:
    for number in range(3):
        await database.sessions.add(a_session(f"s{number * 700}", status=tuple(SessionStatus)[number]))
    assert await database.sessions.known([f"s{number}" for number in range(1500)]) == {"s0", "s700", "s1400"}
    assert await database.sessions.known([]) == frozenset()


@pytest.mark.asyncio
async def test_a_session_keeps_what_it_was_made_from_word_for_word(database: Database) -> None:
    template = a_template(
        network=NetworkRules(allowed_domains=("a.example",)),
        limits=ResourceLimits(cpu_cores=0.5),
        packages=(Dependency(name="a", version="==1"), Dependency(name="b")),
        preload=("json",),
        default_env_vars={"A": "b"},
    )
    await database.sessions.add(a_session(template=template))
    await database.sessions.add(a_session("old"))
    assert (await database.sessions.get("s")).template == template
    assert (await database.sessions.get("old")).template is None


@pytest.mark.asyncio
async def test_another_owners_session_looks_like_none(database: Database) -> None:
    await database.sessions.add(a_session(owner="ann"))
    assert (await database.sessions.get("s")).owner == "ann"
    assert (await database.sessions.get("s", owner="ann")).owner == "ann"
    for id, owner in (("s", "bob"), ("s", ""), ("none", "ann"), ("none", None)):
        with pytest.raises(RecordNotFoundError, match=f"there is no session '{id}'"):
            await database.sessions.get(id, owner=owner)


@pytest.mark.asyncio
async def test_an_id_is_given_once(database: Database) -> None:
    await database.sessions.add(a_session(detail="first"))
    with pytest.raises(ConflictError, match="'s'"):
        await database.sessions.add(a_session(detail="second", owner="bob"))
    assert (await database.sessions.get("s")).detail == "first"


@pytest.mark.asyncio
async def test_quotas_count_those_that_are_alive(database: Database) -> None:
    sessions = database.sessions
    await sessions.add(a_session("over", status=SessionStatus.COMPLETED), per_owner=1, in_all=1)
    await sessions.add(a_session("a1", status=SessionStatus.CREATING), per_owner=2, in_all=3)
    await sessions.add(a_session("a2"), per_owner=2, in_all=3)
    with pytest.raises(QuotaExceededError) as quota:
        await sessions.add(a_session("a3"), per_owner=2, in_all=3)
    assert (quota.value.what, quota.value.limit) == ("sessions", 2)
    await sessions.add(a_session("b1", owner="bob"), per_owner=2, in_all=3)
    with pytest.raises(NoCapacityError, match="3 sessions"):
        await sessions.add(a_session("b2", owner="bob"), per_owner=2, in_all=3)
    assert await sessions.count_alive() == 3
    assert await sessions.count_alive("ann") == 2
    assert await sessions.count_alive("nobody") == 0
    await sessions.change("a1", status=SessionStatus.TERMINATED)
    await sessions.add(a_session("a3"), per_owner=2, in_all=3)


@pytest.mark.parametrize("first", SessionStatus)
@pytest.mark.asyncio
async def test_only_steps_that_are_allowed_are_taken(database: Database, first: SessionStatus) -> None:
    for number, to in enumerate(SessionStatus):
        id = f"s{number}"
        await database.sessions.add(a_session(id, status=first))
        if to in SESSION_STEPS[first]:
            changed = await database.sessions.change(id, status=to)
            assert changed is not None
            assert changed.status == to
            assert (changed.completed_at is not None) == to.is_final
        else:
            with pytest.raises(ConflictError, match=f"the session is {first}, and can't become {to}"):
                await database.sessions.change(id, status=to)
            with pytest.raises(ConflictError):
                await database.sessions.change(id, expect=list(SessionStatus), status=to)
            assert await database.sessions.get(id) == a_session(id, status=first)


@pytest.mark.asyncio
async def test_a_change_is_made_only_if_the_session_is_what_one_thinks(database: Database) -> None:
    sessions = database.sessions
    await sessions.add(a_session(status=SessionStatus.CREATING))
    expectations: list[Collection[SessionStatus]] = [[SessionStatus.RUNNING], [], {SessionStatus.FAILED}]
    for expect in expectations:
        assert await sessions.change("s", expect=expect, status=SessionStatus.TERMINATED, detail="no") is None
        assert await sessions.change("s", expect=expect, detail="no") is None
    assert await sessions.get("s") == a_session(status=SessionStatus.CREATING)
    before = datetime.now(UTC)
    changed = await sessions.change(
        "s", expect=[SessionStatus.CREATING], status=SessionStatus.RUNNING, container_id="c", epoch=1
    )
    assert changed is not None
    assert before <= changed.updated_at <= datetime.now(UTC)
    assert changed == a_session(container_id="c", epoch=1, updated_at=changed.updated_at)
    assert await sessions.get("s") == changed
    with pytest.raises(RecordNotFoundError):
        await sessions.change("none", detail="x")


@pytest.mark.asyncio
async def test_all_kinds_of_fields_can_be_changed_and_some_never(database: Database) -> None:
    await database.sessions.add(a_session(tags={"a": "1"}))
    fields: dict[str, Any] = {
        "reason": Reason.IDLE,
        "network": NetworkRules(allowed_domains=("x",)),
        "tags": {"b": "2"},
        "denied_hosts": {"h": 1},
        "completed_at": later(7),
    }
    changed = await database.sessions.change("s", **fields)
    assert changed is not None
    assert changed == a_session(**fields, updated_at=changed.updated_at)
    assert await ids(database, tags={"b": "2"}) == ["s"]
    assert await ids(database, tags={"a": "1"}) == []
    for name in ("id", "owner", "created_at", "colour"):
        with pytest.raises(TypeError, match=name):
            fields = {name: "x"}
            await database.sessions.change("s", **fields)


@pytest.mark.asyncio
async def test_of_two_installations_at_once_one_is_refused(database: Database) -> None:
    await database.sessions.add(a_session())
    ready = (InstallStatus.COMPLETED, InstallStatus.FAILED)
    first = await database.sessions.change("s", expect_install=ready, install_status=InstallStatus.INSTALLING)
    assert first is not None
    assert await database.sessions.change("s", expect_install=ready, install_status=InstallStatus.INSTALLING) is None


@pytest.mark.asyncio
async def test_who_uses_a_session_keeps_it(database: Database) -> None:
    sessions = database.sessions
    await sessions.add(a_session())
    assert await sessions.expired(later(299)) == ()
    assert await sessions.expired(later(300)) == ("s",)
    assert await sessions.touch("s", later(299), later(599))
    assert await sessions.change("s", unused_at=later(300), status=SessionStatus.COMPLETED) is None  # in between
    assert await sessions.expired(later(300)) == ()
    assert not await sessions.touch("s", later(298), later(598))  # came late, and takes nothing back
    assert (await sessions.get("s")).expires_at == later(599)
    ended = await sessions.change("s", unused_at=later(599), status=SessionStatus.COMPLETED)
    assert ended is not None
    assert not await sessions.touch("s", later(600), later(900))
    assert not await sessions.touch("none", later(600), later(900))


@pytest.mark.asyncio
async def test_those_that_are_too_old_expire_though_they_are_used(database: Database) -> None:
    await database.sessions.add(a_session("old", expires_at=later(10_000)))
    await database.sessions.add(a_session("new", created_at=later(50), expires_at=later(10_000)))
    await database.sessions.add(a_session("being made", status=SessionStatus.CREATING))
    await database.sessions.add(a_session("over", status=SessionStatus.FAILED))
    assert await database.sessions.expired(later(1000)) == ()
    assert await database.sessions.expired(later(1000), 1000) == ("old",)
    assert await database.sessions.expired(later(1050), timedelta(seconds=1000)) == ("old", "new")


@pytest.mark.asyncio
async def test_those_that_are_alive_and_those_that_ended(database: Database) -> None:
    for number, (status, node) in enumerate(product(SessionStatus, ("n", "m"))):
        await database.sessions.add(
            a_session(
                f"{status}-{node}",
                status=status,
                runtime_node=node,
                created_at=later(number),
                completed_at=later(number) if status.is_final else None,
            )
        )
    assert [each.id for each in await database.sessions.alive()] == [
        "creating-n",
        "creating-m",
        "running-n",
        "running-m",
    ]
    assert [each.id for each in await database.sessions.alive("m")] == ["creating-m", "running-m"]
    assert await database.sessions.ended_before(later(7)) == ("completed-n", "completed-m", "failed-n")


@pytest.mark.asyncio
async def test_filters_go_together(database: Database) -> None:
    sessions = database.sessions
    await sessions.add(a_session("a", created_at=later(1), tags={"env": "test", "run": "1"}))
    await sessions.add(a_session("b", created_at=later(2), tags={"env": "test", "run": "2"}, template_id="u"))
    await sessions.add(a_session("c", created_at=later(3), tags={"env": "te"}, status=SessionStatus.FAILED))
    await sessions.add(
        a_session("d", created_at=later(4), owner="bob", mode=SessionMode.STATEFUL, tags={"en": "vtest"})
    )
    assert await ids(database) == ["d", "c", "b", "a"]
    assert await ids(database, owner="ann") == ["c", "b", "a"]
    assert await ids(database, statuses=[SessionStatus.RUNNING]) == ["d", "b", "a"]
    assert await ids(database, statuses={SessionStatus.RUNNING, SessionStatus.FAILED}) == ["d", "c", "b", "a"]
    assert await ids(database, statuses=[]) == []
    assert await ids(database, template_id="u") == ["b"]
    assert await ids(database, mode=SessionMode.STATEFUL) == ["d"]
    assert await ids(database, tags={"env": "test"}) == ["b", "a"]
    assert await ids(database, tags={"env": "test", "run": "1"}) == ["a"]
    assert await ids(database, tags={"env": "test", "run": "3"}) == []
    assert await ids(database, created_after=later(1), created_before=later(4)) == ["c", "b"]
    assert await ids(database, owner="ann", statuses=[SessionStatus.RUNNING], tags={"run": "2"}) == ["b"]


@pytest.mark.asyncio
async def test_pages_have_each_session_once_while_new_ones_come(database: Database) -> None:
    for number in range(7):
        await database.sessions.add(a_session(f"s{number}", created_at=later(number // 3)))  # some at the same moment
    seen: list[str] = []
    cursor = None
    for part in range(10):
        page = await database.sessions.list(limit=3, cursor=cursor)
        assert page.total == 7 + part
        seen += [each.id for each in page.items]
        await database.sessions.add(a_session(f"new{part}", created_at=later(100 + part)))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]
    page = await database.sessions.list(limit=2, offset=3)
    assert [each.id for each in page.items] == ["s6", "s5"]
    assert (await database.sessions.list(limit=2, offset=2**70)).items == ()
    whole = await database.sessions.list(limit=2**70)
    assert len(whole.items) == whole.total == 10
    assert whole.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "WzEsMl0", "é", "bnVsbA", "WzFlNDAwLCIiXQ", "=" * 5, "[1,'s']", "\0"])
@pytest.mark.asyncio
async def test_what_is_no_cursor_is_refused(sqlite_database: Database, cursor: str) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        await sqlite_database.sessions.list(limit=1, cursor=cursor)
    assert caught.value.field == "cursor"


@pytest.mark.asyncio
async def test_with_a_session_all_goes_that_it_did(database: Database) -> None:
    for name in ("s", "other"):
        await database.sessions.add(a_session(name, tags={"a": "b"}))
        await database.executions.add(an_execution(f"e-{name}", session_id=name))
        await database.events.append(f"e-{name}", [an_event(1, "x", execution_id=f"e-{name}")])
    await database.sessions.remove("s")
    for missing in (database.sessions.get("s"), database.executions.get("e-s"), database.sessions.remove("s")):
        with pytest.raises(RecordNotFoundError):
            await missing
    assert await database.events.after("e-s", 0) == ()
    assert len(await database.events.after("e-other", 0)) == 1
    assert await ids(database, tags={"a": "b"}) == ["other"]
    await database.sessions.add(replace(a_session(), tags={}))  # the id is free, and nothing of the old one is left
    assert await ids(database, tags={"a": "b"}) == ["other"]
