"""Servers as one runs them for others: PostgreSQL, an object store, and state directories that may get lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.control.object_store import CREDENTIALS, ObjectStore
from tests.control.postgres_server import PostgresServer
from tests.control.serving import Api, Server, eventually

Fleet = Callable[[Path], Server]
"""Makes a server of a state directory; all of them share a database and a bucket."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.sandbox)


@pytest.fixture(scope="session")
def bucket(object_store: ObjectStore) -> str:
    """Where all servers keep their copies, below ``prod``."""
    return object_store.new_bucket()


@pytest.fixture(scope="session")
def fleet(postgres: PostgresServer, object_store: ObjectStore, bucket: str) -> Fleet:
    """See :data:`Fleet`."""
    database = postgres.create()

    def make(state_dir: Path) -> Server:
        return Server(
            state_dir,
            environment=CREDENTIALS,
            database_url=postgres.url(database),
            workspace_url=f"s3://{bucket}/prod",
            s3_endpoint=object_store.endpoint,
            s3_allow_http=True,
            console=False,
            rate_limit="100000/minute",
            drain_timeout=0.5,
        )

    return make


@pytest.fixture(scope="session")
def first(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is there all the time, whatever happens to others."""
    with fleet(tmp_path_factory.mktemp("first") / "state") as server:
        pid = server.pid
        yield server
        assert server.pid == pid
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session")
def api(first: Server) -> Api:
    """A client of it."""
    return first.api()


@pytest.fixture
def session(api: Api) -> Iterator[str]:
    """Id of a session of it that runs, and is removed after the test."""
    session_id = api.running_session()
    yield session_id
    eventually(lambda: api.delete(f"/sessions/{session_id}").status_code, lambda seen: seen in (204, 404))
