"""Servers with a console: one that needs no key, and one that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipybox.testrun.history import History
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import Outcome
from tests.control.console.site import HOSTILE, Site
from tests.control.serving import Api, Server


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A results file with a run in it, and where there is none."""
    directory = tmp_path_factory.mktemp("results")
    found = directory / "found.sqlite"
    cases = (
        CaseResult(id=f"tests/test_a.py::test_{HOSTILE}", outcome=Outcome.PASSED, duration=0.1),
        CaseResult(id="tests/test_a.py::test_b", outcome=Outcome.FAILED, duration=0.2),
    )
    with History(found) as history:
        history.record(
            RunReport(
                results=cases, started_at="2031-05-06T07:08:09Z", duration=1.5, framework=HOSTILE, python="3.11.7"
            )
        )
    return found, directory / "missing.sqlite"


@pytest.fixture(scope="session")
def open_server(tmp_path_factory: pytest.TempPathFactory, results: tuple[Path, Path]) -> Iterator[Server]:
    """A server of the loopback, without keys."""
    state = tmp_path_factory.mktemp("open") / "state"
    settings: dict[str, Any] = {"rate_limit": "100000/minute", "drain_timeout": 0.5}
    with Server(state, test_results=[str(path) for path in results], **settings) as running:
        yield running
    assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="session")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that needs a key."""
    state = tmp_path_factory.mktemp("keyed") / "state"
    with Server(state, auth="always", rate_limit="100000/minute", drain_timeout=0.5) as running:
        yield running
    assert "Traceback" not in running.log, running.log


@pytest.fixture
def site(open_server: Server) -> Iterator[Site]:
    """The console of the server without keys."""
    with Site(open_server.url) as client:
        yield client


@pytest.fixture
def stranger(keyed_server: Server) -> Iterator[Site]:
    """The console of the server with keys, for somebody who is not signed in."""
    with Site(keyed_server.url) as client:
        yield client


@pytest.fixture(scope="session")
def admin_key(keyed_server: Server) -> str:
    """A key that may do everything."""
    return keyed_server.new_key("the boss", "boss", "admin")


@pytest.fixture(scope="session")
def keyed_api(keyed_server: Server, admin_key: str) -> Api:
    """The API of the server with keys, for an administrator."""
    return keyed_server.api(admin_key)


@pytest.fixture(scope="session")
def new_key(keyed_api: Api) -> Callable[..., str]:
    """Makes a key of a name, an owner and scopes, and returns its secret."""

    def make(name: str, owner: str, *scopes: str) -> str:
        answer = keyed_api.post("/keys", json={"name": name, "owner": owner, "scopes": scopes})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])

    return make


@pytest.fixture(scope="session")
def open_api(open_server: Server) -> Api:
    """The API of the server without keys."""
    return open_server.api()


@pytest.fixture(scope="session")
def session_page(open_api: Api) -> str:
    """Path of the page of a stateful session that runs, with hostile names in it, for all tests that only add to it."""
    return f"/console/sessions/{open_api.running_session(mode='stateful', tags={'team': HOSTILE})}"
