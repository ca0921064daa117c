"""The first page: how the server is, and how much there is. Floor: control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from ipybox.control.access.scopes import LOCAL, Principal
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import LivePart, live, live_answer, page
from ipybox.control.console.visitor import Looker, Visitor, plane_of
from ipybox.control.console.wording import size
from ipybox.control.db.sessions import SessionFilter
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.states import SessionStatus

router = APIRouter(route_class=PageRoute)
_RECENT = 5


@router.get("")
async def overview(request: Request, visitor: Looker, part: str | None = None) -> Response:
    """Health and counts."""
    plane = plane_of(request)
    counts = await _counts(request, visitor, plane)
    if part is not None:
        return live_answer(request, counts)
    health = dict(await plane.health())
    return page(
        request,
        "overview.html",
        counts=counts.html,
        health=_rows(health, plane),
        failures=health.get("templates", {}).get("failures", {}),
        is_local=visitor.principal is LOCAL,
    )


async def _counts(request: Request, visitor: Visitor, plane: ControlPlane) -> LivePart:
    owner = owner_of(visitor.principal)
    totals = {}
    for status in SessionStatus:
        found = await plane.sessions.list(SessionFilter(owner=owner, statuses=(status,)), limit=1)
        totals[status] = found.total
    recent = await plane.sessions.list(SessionFilter(owner=owner), limit=_RECENT)
    is_busy = bool(totals[SessionStatus.CREATING] or totals[SessionStatus.RUNNING])
    return live(
        request,
        "overview_counts.html",
        id="counts",
        source="/console?part=counts",
        trigger="every 2s" if is_busy else "",
        totals=totals,
        unfinished=plane.executions.count(),
        recent=recent.items,
    )


def owner_of(principal: Principal) -> str | None:
    """Whose sessions somebody sees; None is everybody's."""
    return None if principal.sees_all else principal.owner


def _rows(health: Mapping[str, Any], plane: ControlPlane) -> list[tuple[str, str, str]]:
    """Name, status and what else there is to say of each thing that the server depends on."""
    rows = []
    things = {name: health[name] for name in ("database", "storage") if name in health}
    things |= {f"node {node.get('name', '')}": node for node in health.get("runtime_nodes", ())}
    for name, facts in things.items():
        more = [f"{_words(key)} {_value(key, value)}" for key, value in facts.items() if key not in ("status", "name")]
        rows.append((name, str(facts.get("status", "unknown")), ", ".join(each for each in more if each)))
    if plane.draining:
        rows.append(("server", "draining", "it takes nothing new"))
    return rows


def _words(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def _value(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if isinstance(value, list | tuple | dict):
        return str(len(value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
