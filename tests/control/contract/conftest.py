"""One server and one session for all of the suite; tests that need their own make them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.control.serving import Api, Server, api, server, session, stateful

__all__ = ["api", "own_session", "server", "session", "stateful"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.sandbox)


@pytest.fixture
def own_session(api: Api) -> Iterator[str]:
    """Id of a session that runs, and is deleted after the test."""
    session_id = api.running_session()
    yield session_id
    api.delete(f"/sessions/{session_id}")


@pytest.fixture(scope="session")
def outlasting(server: Server) -> Iterator[Future[tuple[str, httpx.Response, float]]]:
    """A session, the answer to a wait in it that was too short, and how long that took."""
    api = server.api()
    code = (
        "import time, os\ndef handler(event):\n    while not os.path.exists('go'): time.sleep(0.05)\n    return 'went'"
    )

    def wait() -> tuple[str, httpx.Response, float]:
        session_id = api.running_session()
        query = {"sync_timeout": 10, "poll_interval": 0.1}
        body = {"code": code, "timeout": 120}
        began = time.monotonic()
        answer = api.post(f"/executions/sessions/{session_id}/execute-sync", params=query, json=body)
        return session_id, answer, time.monotonic() - began

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait)
