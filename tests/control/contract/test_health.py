"""How the server says that it is, what it counts, what it writes down, and what executors of one's own may say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.control.serving import HELLO, Api, Server, eventually


def test_the_health_is_short_and_true(api: Api) -> None:
    first, second = (api.get("/health") for _ in range(2))
    assert first.status_code == 200
    assert set(first.json()) == {"status", "version", "uptime"}
    assert first.json()["status"] == "healthy"
    assert re.match(r"\d+\.\d+", first.json()["version"])
    assert second.json()["uptime"] > first.json()["uptime"] > 0


def test_the_detailed_health_has_looked_at_everything(api: Api, own_session: str, elsewhere: dict[str, Any]) -> None:
    answer = api.get("/health/detailed")
    found = answer.json()
    assert (answer.status_code, found["status"]) == (200, "healthy")
    needs = found["dependencies"]
    assert (needs["database"]["status"], needs["database"]["dialect"]) == (
        "healthy",
        "postgresql" if "database_url" in elsewhere else "sqlite",
    )
    assert needs["database"]["seconds"] > 0
    assert (needs["storage"]["status"], needs["storage"]["kind"]) == (
        "healthy",
        "s3" if "workspace_url" in elsewhere else "disk",
    )
    assert needs["storage"]["free_bytes"] > 0
    assert [each["status"] for each in needs["runtime_nodes"]] == ["healthy"]
    assert needs["runtime_nodes"][0]["name"] == api.session(own_session)["runtime_node"]
    before = found["sessions"]
    more = api.running_session()
    during = api.get("/health/detailed").json()["sessions"]
    assert during["alive"] > before["alive"]
    assert during["sandboxes"] > before["sandboxes"]
    api.delete(f"/sessions/{more}")
    after = api.get("/health/detailed").json()["sessions"]
    assert (after["alive"], after["sandboxes"]) < (during["alive"], during["sandboxes"])


def test_the_health_stays_while_sessions_come_and_go(api: Api) -> None:
    for _ in range(3):
        session_id = api.new_session()
        assert api.get("/health").json()["status"] == "healthy"
        assert api.delete(f"/sessions/{session_id}").status_code == 204
        assert api.get("/health").json()["status"] == "healthy"


def test_a_synchronisation_finds_nothing_to_do_and_disturbs_nothing(api: Api, own_session: str) -> None:
    execution_id = api.submit(
        own_session, "import time\ndef handler(event):\n    print('up', flush=True)\n    time.sleep(600)", timeout=900
    )
    api.said(execution_id, "up")
    answer = api.post("/health/sync")
    assert answer.status_code == 200
    assert answer.json()["status"] == "success"
    result = answer.json()["result"]
    assert own_session not in str(result)
    assert not result["crashed"]
    assert api.execution(execution_id)["status"] == "running"
    assert api.session(own_session)["status"] == "running"


def test_metrics_are_those_of_prometheus(server: Server, api: Api, session: str) -> None:
    assert api.run(session, HELLO)["status"] == "completed"
    answer = api.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(("text/plain", "application/openmetrics-text"))
    assert re.search(r'executions\w*\{[^}]*"completed"[^}]*\} [1-9]', answer.text)
    assert re.search(r'sessions\w*\{[^}]*"running"[^}]*\} [1-9]', answer.text)
    assert "/api/v1/executions/sessions/{session_id}/execute-sync" in answer.text
    assert session not in answer.text


def test_what_was_changed_is_in_the_audit_log_and_code_is_not(api: Api, session: str) -> None:
    execution_id = api.run(session, HELLO, env_vars={"TOKEN": "secret-of-mine"})["id"]
    answer = api.put(f"/sessions/{session}/files/audited.txt", content=b"x", headers={"X-Request-ID": "audited-1"})
    assert answer.status_code == 200
    assert api.post("/sessions", json={"template_id": "none"}).status_code == 400
    found = api.get("/audit", params={"target": execution_id}).json()["items"]
    assert [(each["action"], each["outcome"], each["actor"]) for each in found] == [("execution.create", 200, "local")]
    assert found[0]["detail"]["session_id"] == session
    assert "secret-of-mine" not in str(found)
    assert "handler" not in str(found)
    written = api.get("/audit", params={"action": "file.write"}).json()["items"][0]
    assert (written["target"], written["request_id"]) == (session, "audited-1")
    assert written["address"] == "127.0.0.1"
    refused = api.get("/audit", params={"action": "session.create", "limit": 1}).json()
    assert refused["items"][0]["outcome"] == 400
    assert refused["next_cursor"]
    older = api.get("/audit", params={"action": "session.create", "limit": 1, "cursor": refused["next_cursor"]}).json()
    assert older["items"][0]["id"] < refused["items"][0]["id"]
    assert api.get("/audit", params={"since": "2100-01-01T00:00:00Z"}).json()["items"] == []
    assert api.get("/audit", params={"since": "yesterday"}).status_code == 422


def test_the_log_of_the_server_holds_no_secret(server: Server, api: Api, session: str) -> None:
    secret = "sesame-93b1f0"
    code = f"import os\ndef handler(event):\n    print('{secret}-code')\n    raise ValueError(os.environ['TOKEN'])"
    found = api.run(session, code, env_vars={"TOKEN": f"{secret}-env"}, event={"password": f"{secret}-event"})
    assert found["status"] == "failed"
    other = api.new_session(env_vars={"TOKEN": f"{secret}-session"})
    wrong = {"template_id": "python", "env_vars": {"A=B": f"{secret}-wrong"}, "memory": f"{secret}-size"}
    assert api.post("/sessions", json=wrong).status_code == 422
    assert f"{secret}" not in api.post("/sessions", json=wrong).text
    assert api.get("/sessions", params={"tag": f"{secret}-query"}).status_code == 400
    assert api.get("/sessions", headers={"Authorization": f"Bearer {secret}-key"}).status_code == 401
    api.delete(f"/sessions/{other}")
    eventually(lambda: server.log, lambda seen: f'"target": "{other}"' in seen)
    assert secret not in server.log


@pytest.fixture(scope="module")
def finished(api: Api, session: str) -> dict[str, Any]:
    return api.run(session, HELLO)


def test_callbacks_of_executors_are_acknowledged(api: Api, session: str, finished: dict[str, Any]) -> None:
    container = api.session(session)["container_id"]
    ready = api.post("/internal/containers/ready", json={"container_id": container, "executor_port": 8080})
    assert ready.status_code == 200
    assert ready.json()["message"]
    exited = api.post("/internal/containers/exited", json={"container_id": container, "exit_code": 0})
    assert exited.status_code == 200
    assert api.session(session)["status"] == "running"
    assert api.post(f"/internal/executions/{finished['id']}/heartbeat").status_code == 200
    assert api.post("/internal/executions/none/heartbeat").status_code == 404
    assert api.post("/internal/containers/ready", json={}).status_code == 422


def test_a_result_that_an_executor_reports_changes_nothing(api: Api, finished: dict[str, Any]) -> None:
    url = f"/internal/executions/{finished['id']}/result"
    same = {"status": "success", "stdout": "", "stderr": "", "exit_code": 0, "execution_time": 0.1}
    assert api.post(url, json=same).status_code == 200
    assert api.post(url, json={**same, "status": "failed", "exit_code": 1}).status_code == 409
    assert api.post(url, json={**same, "status": "nonsense"}).status_code == 400
    assert api.post(url, json={}).status_code == 422
    assert api.post("/internal/executions/none/result", json=same).status_code == 404
    assert api.execution(finished["id"]) == finished


def test_a_result_of_what_still_runs_is_not_taken_from_outside(api: Api, own_session: str) -> None:
    execution_id = api.submit(own_session, "import time\ndef handler(event): time.sleep(600)", timeout=900)
    body = {"status": "success", "return_value": "forged", "exit_code": 0}
    assert api.post(f"/internal/executions/{execution_id}/result", json=body).status_code == 409
    assert api.execution(execution_id)["status"] in ("pending", "running")
