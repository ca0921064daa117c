"""One server and one session for all of the suite; tests that need their own make them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.serving import Api, api, server, session, stateful

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
