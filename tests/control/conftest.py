"""Databases, and an object store.

``database`` and ``database_url`` are of both kinds, one after the other; others are of SQLite only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipybox.control.db.database import Database
from tests.control.object_store import CREDENTIALS, ObjectStore
from tests.control.postgres_server import PostgresServer


def _migrate(url: str) -> None:
    async def migrate() -> None:
        async with Database(url):
            pass

    with ThreadPoolExecutor(1) as elsewhere:  # there may be an event loop in this thread
        elsewhere.submit(asyncio.run, migrate()).result()


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
def object_store() -> Iterator[ObjectStore]:
    """A server that all tests share."""
    with ObjectStore() as store:
        yield store


@pytest.fixture(scope="session")
def elsewhere(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a server is given besides its settings to keep things elsewhere, if the tests are asked to.

    ``IPYBOX_TEST_DATABASE=postgresql`` and ``IPYBOX_TEST_WORKSPACES=s3``, to be said by hand.
    """
    given: dict[str, Any] = {}
    if os.environ.get("IPYBOX_TEST_DATABASE") == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        given.update(database_url=postgres.url(postgres.create()))
    if os.environ.get("IPYBOX_TEST_WORKSPACES") == "s3":
        store: ObjectStore = request.getfixturevalue("object_store")
        given.update(workspace_url=f"s3://{store.new_bucket()}/prod", s3_endpoint=store.endpoint, s3_allow_http=True)
        given.update(environment=CREDENTIALS)
    return given


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer) -> str:
    """Name of a database that tests use one after the other."""
    name = postgres.create()
    _migrate(postgres.url(name))
    return name


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in them, for copies."""
    path = tmp_path_factory.mktemp("migrated") / "ipybox.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """URL of a database on SQLite, for what does not depend on which it is."""
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'ipybox.db')}"


@pytest.fixture
def postgres_url(postgres: PostgresServer, migrated: str) -> str:
    """URL of a database on PostgreSQL, without anything in it."""
    postgres.clear(migrated)
    return postgres.url(migrated)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a database without anything in it."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database that nobody has opened yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database without anything in it."""
    async with Database(database_url) as opened:
        yield opened


@pytest_asyncio.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    """A database on SQLite, without anything in it."""
    async with Database(sqlite_url) as opened:
        yield opened
