"""A server of one's own for each test that hurts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.serving import Api, Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.sandbox)


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of one module share: its sandboxes are hurt, and it has to stay."""
    state = tmp_path_factory.mktemp("hurt") / "state"
    with Server(state, console=False, rate_limit="100000/minute", drain_timeout=0.5) as server:
        pid = server.pid
        yield server
        assert server.pid == pid
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module")
def hurt_api(hurt: Server) -> Api:
    """A client of it."""
    return hurt.api()


@pytest.fixture
def mine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of one test, with settings of its own as parameter."""
    settings = {"console": False, "rate_limit": "100000/minute", "drain_timeout": 20, **getattr(request, "param", {})}
    with Server(tmp_path / "state", **settings) as server:
        yield server
    assert "Traceback" not in server.log, server.log
