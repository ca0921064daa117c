"""The control plane has floors of its own, and its client needs nothing of them."""

from __future__ import annotations

import subprocess
import sys

from tests.test_architecture import GRAPH, MODULES

PREFIX = "ipybox.control."
FLOORS = ("facts", "db", "inside", "runtime", "storage", "access", "service", "api", "console", "top")
"""From the ground up."""
SERVER_ONLY = {"alembic", "asyncpg", "aiosqlite", "fastapi", "jinja2", "limits", "obstore", "prometheus_client"}
SERVER_ONLY |= {"pydantic", "python_multipart", "sqlalchemy", "starlette", "structlog", "uvicorn"}


def _floor(name: str) -> str:
    part = name.removeprefix(PREFIX).partition(".")[0]
    if part in FLOORS:
        return part
    if part in ("records", "states", "settings", "errors", "json_scan", "json_text"):
        return "facts"
    return "client" if part == "client" else "top"


def _modules() -> list[str]:
    return [name for name in MODULES if name.startswith(PREFIX)]


def test_imports_point_down_within_the_control_plane() -> None:
    upwards = [
        f"{name} imports {target}"
        for name in _modules()
        for target in GRAPH[name]
        if target.startswith(PREFIX)
        and _floor(name) != "client"
        and (_floor(target) == "client" or FLOORS.index(_floor(target)) > FLOORS.index(_floor(name)))
    ]
    assert upwards == []


def test_what_runs_in_a_sandbox_knows_no_database_and_no_web_server() -> None:
    allowed = ("ipybox.control.inside", "ipybox.control.states", "ipybox.control.records")
    outside = [
        f"{name} imports {target}"
        for name in _modules()
        if _floor(name) == "inside"
        for target in GRAPH[name]
        if target.startswith(PREFIX) and not target.startswith(allowed)
    ]
    assert outside == []


def test_the_client_knows_the_errors_of_the_server_and_nothing_else_of_it() -> None:
    known = {"ipybox.control.errors"}
    foreign = [
        f"{name} imports {target}"
        for name in _modules()
        if _floor(name) == "client"
        for target in GRAPH[name]
        if target.startswith(PREFIX) and _floor(target) != "client" and target not in known
    ]
    assert foreign == []


def test_the_client_loads_nothing_that_only_a_server_needs() -> None:
    code = "import sys; from ipybox.control.client import ControlClient; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & SERVER_ONLY == set()
