"""Everything that a record may hold comes back equal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import StatementError

from ipybox.control.db.columns import escaped, unescaped
from ipybox.control.db.database import Database
from ipybox.control.errors import RecordNotFoundError
from ipybox.control.records import (
    Artifact,
    Dependency,
    ExecutionEvent,
    InstalledDependency,
    Metrics,
    NetworkRules,
    ResourceLimits,
)
from ipybox.control.states import ExecutionStatus, InstallStatus, Reason
from tests.control.made import NOW, a_key, a_session, a_template, an_audit_entry, an_execution, later

HARD = st.sampled_from("\0\x1a\x1b\ud83d\ude00\udc80\ufffe\uffff\\'\"%é😀0d8")
ANY_TEXT = st.text(st.one_of(HARD, st.characters(exclude_categories=())), max_size=20)
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ANY_TEXT, inner, max_size=4)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(ANY_TEXT, ANY_JSON, max_size=4)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))
EVENTS = st.lists(st.tuples(ANY_TEXT, OBJECTS, TIMES), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_escaped_text_is_of_letters_that_all_databases_take_and_is_as_different_as_before(a: str, b: str) -> None:
    assert unescaped(escaped(a)) == a
    assert "\0" not in escaped(a)
    escaped(a).encode()
    assert (escaped(a) == escaped(b)) == (a == b)


def test_what_is_no_json_to_others_comes_back_equal(database_url: str) -> None:
    """One database for all examples, so the test has a loop of its own."""
    numbers = iter(range(1_000_000))

    async def check(database: Database, said: list[tuple[str, Any, datetime]], text: str, value: Any) -> None:
        id = f"e{next(numbers)}{text}"
        execution = an_execution(
            id, code=text, event=value, env_vars={text: text}, error_message=text, return_value=value
        )
        await database.executions.add(execution)
        events = tuple(
            ExecutionEvent(execution_id=id, seq=seq, kind=kind, data=data, at=at)
            for seq, (kind, data, at) in enumerate(said, 1)
        )
        await database.events.append(id, events)
        assert await database.events.after(id, 0) == events
        assert await database.executions.get(id) == replace(execution, events=len(events))

    with asyncio.Runner() as runner:
        database = Database(database_url)
        runner.run(database.__aenter__())
        try:
            runner.run(database.sessions.add(a_session()))

            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            @given(EVENTS, ANY_TEXT, ANY_JSON)
            def examples(said: list[tuple[str, Any, datetime]], text: str, value: Any) -> None:
                runner.run(check(database, said, text, value))

            examples()
        finally:
            runner.run(database.__aexit__(None, None, None))


@pytest.mark.asyncio
async def test_numbers_that_are_no_json_come_back(database: Database) -> None:
    values = [float("inf"), float("-inf"), float("nan"), -0.0, 1e308, 10**400, True, 1, 1.0]
    await database.sessions.add(a_session(event=values))
    assert repr((await database.sessions.get("s")).event) == repr(values)


@pytest.mark.asyncio
async def test_records_that_are_full_come_back_equal(database: Database) -> None:
    hard = "a\0b\ud800"
    network = NetworkRules(allowed_domains=("a.example", "*.b.example:443"), denied_domains=("c.example",))
    dependencies = (Dependency(name="numpy", version="==2.0"), Dependency(name="x"))
    template = a_template(
        default_env_vars={"A": hard},
        preload=("json", "numpy"),
        packages=dependencies,
        package_index_url="https://index.example/simple",
        network=network,
        limits=ResourceLimits(cpu_cores=0.5, memory_bytes=2**40, disk_bytes=2**50, max_processes=7),
        warm=False,
        is_active=False,
    )
    session = a_session(
        reason=Reason.SERVER_RESTARTED,
        detail=hard,
        env_vars={"A": hard},
        event=None,
        tags={hard: "", "": hard},
        network=network,
        python_package_index_url="https://index.example/simple",
        requested_dependencies=dependencies,
        installed_dependencies=(
            InstalledDependency(
                name="numpy", version="2.0", install_location="/x", install_time=NOW, is_from_template=True
            ),
        ),
        install_status=InstallStatus.FAILED,
        install_error=hard,
        fail_on_dependency_error=False,
        install_started_at=later(1),
        install_completed_at=later(2),
        container_id="c",
        runtime_node="n",
        epoch=3,
        denied_hosts={"d.example": 4},
        started_at=later(3),
        completed_at=later(4),
    )
    execution = an_execution(
        status=ExecutionStatus.CRASHED,
        reason=Reason.OUT_OF_MEMORY,
        exit_code=2**32 - 1,
        error_name="E",
        error_message=hard,
        execution_time=1.25,
        return_value={"a": [None]},
        has_return_value=True,
        metrics=Metrics(duration_ms=1.5, cpu_time_ms=2.5, io_read_bytes=2**60),
        artifacts=(
            Artifact(path=hard, size=2**40, mime_type="a/b", type="output", created_at=NOW, checksum="sha256:0"),
        ),
        truncated=True,
        events=7,
        retry_count=1,
        started_at=later(1),
        completed_at=later(2),
    )
    key = a_key(
        expires_at=later(1),
        revoked_at=later(2),
        last_used_at=later(3),
        rotated_from="j",
        max_sessions=1,
        max_executions=2,
    )
    entry = an_audit_entry(detail={"a": [hard]}, target=hard)
    await database.templates.add(template)
    await database.sessions.add(session)
    await database.executions.add(execution)
    await database.keys.add(key)
    await database.audit.append([entry])
    assert await database.templates.get("t") == template
    assert await database.sessions.get("s") == session
    assert await database.executions.get("e") == execution
    assert await database.keys.get("k") == key
    assert (await database.audit.list(limit=1)).items == (replace(entry, id=1),)


@pytest.mark.asyncio
async def test_an_id_of_any_letters_can_be_looked_for(database: Database) -> None:
    for id in ("\0", "\ud800", "\x1a", "\x1a0000", "%", "'; DROP TABLE sessions", "x" * 10_000):
        with pytest.raises(RecordNotFoundError):
            await database.sessions.get(id)
        await database.sessions.add(a_session(id))
        assert (await database.sessions.get(id)).id == id
    assert (await database.sessions.list(limit=50)).total == 7


@pytest.mark.asyncio
async def test_times_are_kept_to_the_microsecond_wherever_they_were_taken(database: Database) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))
    await database.sessions.add(a_session(created_at=elsewhere))
    found = (await database.sessions.get("s")).created_at
    assert found == NOW
    assert found.tzinfo is UTC


@pytest.mark.asyncio
async def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="time zone"):
        await database.sessions.add(a_session(created_at=datetime(2031, 1, 1)))
