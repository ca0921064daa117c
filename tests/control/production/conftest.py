"""Servers as one runs them for others: PostgreSQL, an object store, and state directories that may get lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.control.object_store import CREDENTIALS, ObjectStore
from tests.control.postgres_server import PostgresServer
from tests.control.serving import Api, Server, eventually

Fleet = Callable[..., Server]
"""Makes a server of a state directory; all of them share a database and a bucket."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.sandbox)


def no_traceback(server: Server) -> None:
    """Nothing went wrong in it that nobody expected."""
    before, _, after = server.log.partition("Traceback")
    assert not after, before[-500:] + after[:4000]


@pytest.fixture(scope="session")
def bucket(object_store: ObjectStore) -> str:
    """Where all servers keep their copies, below ``prod``."""
    return object_store.new_bucket()


@pytest.fixture(scope="session")
def fleet(postgres: PostgresServer, object_store: ObjectStore, bucket: str) -> Fleet:
    """See :data:`Fleet`."""
    database = postgres.create()

    def make(state_dir: Path, **more: Any) -> Server:
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
            **more,
        )

    return make


@pytest.fixture(scope="session")
def both(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two servers that were started at once over an empty database, and are there all the time."""
    first, second = (fleet(tmp_path_factory.mktemp(name) / "state") for name in ("first", "second"))
    with ThreadPoolExecutor(2) as threads, ExitStack() as stack:
        for start in [threads.submit(stack.enter_context, each) for each in (first, second)]:
            start.result()
        pids = first.pid, second.pid
        yield first, second
        assert (first.pid, second.pid) == pids
    no_traceback(first)
    no_traceback(second)


@pytest.fixture(scope="session")
def first(both: tuple[Server, Server]) -> Server:
    """One of them."""
    return both[0]


@pytest.fixture(scope="session")
def api(first: Server) -> Api:
    """A client of it."""
    return first.api()


@pytest.fixture(scope="session")
def other(both: tuple[Server, Server]) -> Api:
    """A client of the other one."""
    return both[1].api()


@pytest.fixture
def session(api: Api) -> Iterator[str]:
    """Id of a session of it that runs, and is removed after the test."""
    session_id = api.running_session()
    yield session_id
    eventually(lambda: api.delete(f"/sessions/{session_id}").status_code, lambda seen: seen in (204, 404))
