from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipybox.control.db.database import Database
from ipybox.control.errors import RequestRefusedError
from tests.control.made import an_audit_entry, later


@pytest.mark.asyncio
async def test_filters_go_together(database: Database) -> None:
    entries = [
        an_audit_entry(),
        an_audit_entry(at=later(1), actor="l", target="t", detail={"x": [1]}),
        an_audit_entry(at=later(2), owner="bob", action="session.delete"),
    ]
    await database.audit.append(entries[:2])
    await database.audit.append([])
    await database.audit.append(entries[2:])
    wanted: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [3, 2, 1]),
        ({"owner": "ann"}, [2, 1]),
        ({"actor": "k"}, [3, 1]),
        ({"action": "session.delete"}, [3]),
        ({"target": "s"}, [3, 1]),
        ({"since": later(1)}, [3, 2]),
        ({"owner": "ann", "target": "s"}, [1]),
        ({"owner": "nobody"}, []),
    ]
    for filters, ids in wanted:
        page = await database.audit.list(**filters, limit=10)
        assert [each.id for each in page.items] == ids
        assert page.total == len(ids)
        assert page.items == tuple(replace(entries[id - 1], id=id) for id in ids)


@pytest.mark.asyncio
async def test_what_is_old_is_forgotten_bit_by_bit_and_no_number_is_given_twice(database: Database) -> None:
    entries = [an_audit_entry(at=later(each // 6000)) for each in range(12_000)]
    await database.audit.append([*entries, an_audit_entry(at=later(9))])
    assert [await database.audit.forget_before(later(2)) for _ in range(4)] == [5000, 5000, 2000, 0]
    await database.audit.append([an_audit_entry(at=later(9))])
    assert [each.id for each in (await database.audit.list(limit=10)).items] == [12_002, 12_001]
    assert await database.audit.forget_before(later(10)) == 2
    await database.audit.append([an_audit_entry(at=later(11))])
    assert [each.id for each in (await database.audit.list(limit=10)).items] == [12_003]


@pytest.mark.asyncio
async def test_pages_have_each_entry_once(database: Database) -> None:
    await database.audit.append([an_audit_entry() for _ in range(5)])
    first = await database.audit.list(limit=2)
    await database.audit.append([an_audit_entry()])
    second = await database.audit.list(limit=2, cursor=first.next_cursor)
    third = await database.audit.list(limit=2, cursor=second.next_cursor)
    assert [each.id for page in (first, second, third) for each in page.items] == [5, 4, 3, 2, 1]
    assert (first.total, third.total, third.next_cursor) == (5, 6, None)
    for cursor in ("x", "WzEsInMiXQ"):
        with pytest.raises(RequestRefusedError):
            await database.audit.list(limit=2, cursor=cursor)
