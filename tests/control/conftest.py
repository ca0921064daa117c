"""Databases. ``database`` and ``database_url`` are of both kinds, one after the other; others are of SQLite only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.control.db.database import Database
from tests.control.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that all tests share."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer) -> str:
    """Name of a database with tables and nothing in them, for copies."""
    name = postgres.create()

    async def migrate() -> None:
        async with Database(postgres.url(name)):
            pass

    with ThreadPoolExecutor(1) as elsewhere:  # there may be an event loop in this thread
        elsewhere.submit(asyncio.run, migrate()).result()
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database that nobody has opened yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ipybox.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without anything in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ipybox.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create(request.getfixturevalue("migrated"))
    yield server.url(name)
    server.drop(name)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database without anything in it."""
    async with Database(database_url) as opened:
        yield opened


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a database on SQLite, for what does not depend on which it is."""
    return f"sqlite:///{tmp_path}/ipybox.db"


@pytest_asyncio.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    """A database on SQLite."""
    async with Database(sqlite_url) as opened:
        yield opened
