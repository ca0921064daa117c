"""A server with little room: how much is too much, and what is said then. And time that runs out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.control.serving import HELLO, Api, Server


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for three sessions, and for two executions in each."""
    state = tmp_path_factory.mktemp("small") / "state"
    settings: dict[str, Any] = {
        "max_sessions": 3,
        "max_executions_per_session": 2,
        "max_timeout": 60,
        "max_request_bytes": 20_000,
        "metrics": False,
        "internal_callbacks": False,
    }
    with Server(state, console=False, rate_limit="60/minute", **settings) as running:
        yield running


@pytest.fixture
def small_api(small: Server) -> Iterator[Api]:
    """A client of it with a key, and so a rate, of its own; nothing of the test is left afterwards."""
    local = small.api()
    made = local.post("/keys", json={"name": "test", "owner": f"o-{uuid4().hex[:8]}", "scopes": ["read", "execute"]})
    yield small.api(made.json()["secret"])
    for each in local.get("/sessions").json()["items"]:
        local.delete(f"/sessions/{each['id']}")


def test_too_many_requests_are_told_when_to_come_back(small: Server, small_api: Api) -> None:
    answers = [small_api.get("/templates") for _ in range(70)]
    assert {each.status_code for each in answers[:60]} == {200}
    refused = answers[-1]
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit-remaining"] == "0"
    assert refused.json()["type"].endswith("rate-limited")
    assert small_api.get("/health").status_code == 200
    assert small.api().get("/templates").status_code == 200, "others are served"


def test_a_server_takes_no_more_sessions_than_it_has_room_for(small_api: Api) -> None:
    ids = [small_api.new_session() for _ in range(3)]
    answer = small_api.post("/sessions", json={"template_id": "python"})
    assert answer.status_code in (429, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert small_api.delete(f"/sessions/{ids[0]}").status_code == 204
    assert small_api.post("/sessions", json={"template_id": "python"}).status_code == 201


def test_a_session_takes_no_more_executions_than_it_has_room_for(small_api: Api) -> None:
    session_id = small_api.new_session()
    code = "import time\ndef handler(event): time.sleep(600)"
    for _ in range(2):
        small_api.submit(session_id, code, timeout=900)
    answer = small_api.post(f"/executions/sessions/{session_id}/execute", json={"code": HELLO})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_a_timeout_is_no_more_than_the_server_allows(small_api: Api) -> None:
    session_id = small_api.new_session(timeout=3600)
    assert small_api.session(session_id)["timeout"] == 60


def test_a_request_larger_than_the_setting_is_refused(small_api: Api) -> None:
    answer = small_api.post("/sessions", json={"template_id": "python", "event": "x" * 20_000})
    assert answer.status_code == 413


def test_what_is_switched_off_is_not_there(small: Server, small_api: Api) -> None:
    assert small_api.get(f"{small.url}/metrics").status_code == 404
    assert small_api.post("/internal/containers/ready", json={"container_id": "x"}).status_code == 404
    assert "/internal/" not in small_api.get(f"{small.url}/openapi.json").text


# ---- expiry -------------------------------------------------------------------------------------------------------


def test_a_session_expires_when_nobody_uses_it_and_says_why_and_not_while_code_runs(api: Api) -> None:
    session_id = api.new_session(timeout=1)
    idle = api.new_session(timeout=1)
    code = "import os, time\ndef handler(event):\n    while not os.path.exists('go'): time.sleep(0.02)"
    execution_id = api.submit(session_id, code, timeout=60)
    found = api.session_when(idle, "timeout", "completed", "failed", "terminated")
    assert found["status_reason"] == "idle"
    assert found["completed_at"] >= found["expires_at"]
    answer = api.post(f"/executions/sessions/{idle}/execute", json={"code": HELLO})
    assert answer.status_code == 409
    assert "not used" in answer.json()["detail"]
    assert api.session(session_id)["status"] == "running"
    assert api.put(f"/sessions/{session_id}/files/go", content=b"").status_code == 200
    assert api.execution_when(execution_id)["status"] == "completed"
    assert api.session_when(session_id, "timeout", "completed")["status_reason"] == "idle"
    for each in (session_id, idle):
        assert api.delete(f"/sessions/{each}").status_code == 204


def test_a_renewed_session_is_kept_for_longer_or_shorter(api: Api) -> None:
    session_id = api.new_session(timeout=300)
    before = api.session(session_id)["expires_at"]
    longer = api.post(f"/sessions/{session_id}/renew", json={"timeout": 3000})
    assert longer.status_code == 200
    assert longer.json()["expires_at"] > before
    assert longer.json()["timeout"] == 300
    shorter = api.post(f"/sessions/{session_id}/renew", json={"timeout": 60})
    assert shorter.json()["expires_at"] < before
    own = api.post(f"/sessions/{session_id}/renew", json={})
    assert own.json()["expires_at"] > before
    assert api.post(f"/sessions/{session_id}/renew", json={"timeout": 0}).status_code == 422
    assert api.post("/sessions/none/renew", json={}).status_code == 404
    api.delete(f"/sessions/{session_id}")


def test_using_a_session_keeps_it(api: Api) -> None:
    session_id = api.running_session(timeout=100)
    first = api.session(session_id)
    assert api.run(session_id, HELLO)["status"] == "completed"
    second = api.session(session_id)
    assert second["expires_at"] > first["expires_at"]
    assert second["last_activity_at"] > first["last_activity_at"]
    assert api.put(f"/sessions/{session_id}/files/x", content=b"x").status_code == 200
    assert api.session(session_id)["expires_at"] > second["expires_at"]
    assert api.session(session_id) == api.session(session_id), "looking at it is no use of it"
    api.delete(f"/sessions/{session_id}")
