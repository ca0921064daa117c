from __future__ import annotations

from dataclasses import replace

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import ConflictError, RecordNotFoundError
from tests.control.made import NOW, a_session, a_template, later


@pytest.mark.asyncio
async def test_neither_an_id_nor_a_name_is_given_twice(database: Database) -> None:
    await database.templates.add(a_template("a"))
    with pytest.raises(ConflictError, match="'a'"):
        await database.templates.add(a_template("a", name="Other"))
    with pytest.raises(ConflictError, match="Template a"):
        await database.templates.add(a_template("b", name="Template a"))
    assert await database.templates.get("a") == a_template("a")
    with pytest.raises(RecordNotFoundError, match="no template 'b'"):
        await database.templates.get("b")


@pytest.mark.asyncio
async def test_an_update_replaces_all_but_the_beginning(database: Database) -> None:
    await database.templates.add(a_template("a"))
    await database.templates.add(a_template("b"))
    changed = a_template("a", name="New", preload=("json",), created_at=later(9), updated_at=later(9))
    await database.templates.update(changed)
    assert await database.templates.get("a") == replace(changed, created_at=NOW)
    assert await database.templates.get("b") == a_template("b")
    with pytest.raises(ConflictError, match="New"):
        await database.templates.update(a_template("b", name="New"))
    with pytest.raises(RecordNotFoundError):
        await database.templates.update(a_template("c"))


@pytest.mark.asyncio
async def test_the_list_has_all_of_them_once_in_parts(database: Database) -> None:
    for number in range(5):
        await database.templates.add(a_template(f"t{number}", created_at=later(-number)))
    parts = [await database.templates.list(limit=2, offset=offset) for offset in (0, 2, 4, 6, 2**80)]
    assert [[each.id for each in part.items] for part in parts] == [["t4", "t3"], ["t2", "t1"], ["t0"], [], []]
    assert {part.total for part in parts} == {5}


@pytest.mark.asyncio
async def test_a_template_can_go_before_its_sessions(database: Database) -> None:
    await database.templates.add(a_template())
    await database.sessions.add(a_session())
    await database.templates.remove("t")
    assert (await database.sessions.get("s")).template_id == "t"
    with pytest.raises(RecordNotFoundError):
        await database.templates.remove("t")
