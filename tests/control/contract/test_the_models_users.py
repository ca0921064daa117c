"""What users of the model's documents send, as it stands there, and what they take for granted."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.serving import ENVIRONMENT, HANG, Api, Server, eventually

PAGE = Path(__file__).resolve().parents[3] / "docs" / "control-plane.md"
GREETING = 'def handler(event):\n    name = event.get("name", "World")\n    return {"message": f"Hello, {name}!"}'


@pytest.fixture
def template(api: Api) -> Iterator[str]:
    made = api.post(
        "/templates",
        json={
            "id": "test_template_python",
            "name": "Python Basic Test",
            "image_url": "sandbox-template-python-basic:latest",
            "runtime_type": "python3.11",
            "default_cpu_cores": 1.0,
            "default_memory_mb": 512,
            "default_disk_mb": 1024,
            "default_timeout_sec": 300,
        },
    )
    assert (made.status_code, made.json()["default_timeout_sec"]) == (201, 300)
    yield "test_template_python"
    assert api.delete("/templates/test_template_python").json() == {"message": "Template deleted successfully"}


def test_the_manual_steps_lead_from_a_template_to_a_result(api: Api, template: str) -> None:
    body = {"template_id": template, "timeout": 300, "cpu": "1", "memory": "512Mi", "disk": "1Gi"}
    made = api.post("/sessions", json=body).json()
    assert made["status"] == "creating"
    assert made["resource_limit"] == {"cpu": "1", "memory": "512Mi", "disk": "1Gi", "max_processes": 128}
    code = 'def handler(event):\n    return {"message": "Hello, World!"}'
    sent = {"code": code, "language": "python", "timeout": 10, "event": {}, "env_vars": {}}
    ticket = api.post(f"/executions/sessions/{made['id']}/execute", json=sent)
    assert ticket.status_code == 201
    path = f"/executions/{ticket.json()['execution_id']}/result"
    found = eventually(lambda: api.get(path).json(), lambda seen: seen["status"] not in ("pending", "running"))
    assert (found["status"], found["return_value"]) == ("completed", {"message": "Hello, World!"})
    assert made["id"] in [each["id"] for each in api.get("/sessions").json()["items"]]
    assert api.delete(f"/sessions/{made['id']}").status_code == 204


def test_a_handler_without_an_event_gets_an_empty_one(api: Api, session: str) -> None:
    found = api.run(session, GREETING)
    assert (found["status"], found["return_value"]) == ("completed", {"message": "Hello, World!"})
    assert found["event"] == {}
    script = "handler = (event) => ({message: `Hello, ${event.name ?? 'World'}!`})"
    assert api.run(session, script, language="javascript")["return_value"] == {"message": "Hello, World!"}


def test_an_event_that_is_null_stays_null(api: Api, session: str) -> None:
    assert api.run(session, "def handler(event):\n    return event is None", event=None)["return_value"] is True


def test_code_that_needs_no_handler_is_told_where_it_can_be_run(api: Api, session: str) -> None:
    found = api.run(session, "print('a script')")
    assert (found["status"], found["stdout"]) == ("failed", "a script\n")
    assert "mode 'stateful'" in found["error_message"]


def test_a_session_is_renewed_without_a_body_for_its_own_timeout(api: Api) -> None:
    session_id = api.new_session(timeout=600)
    short = api.post(f"/sessions/{session_id}/renew", json={"timeout": 60}).json()["expires_at"]
    answer = api.post(f"/sessions/{session_id}/renew")
    assert (answer.status_code, answer.json()["expires_at"] > short) == (200, True)
    assert api.delete(f"/sessions/{session_id}").status_code == 204


def test_a_session_that_was_renewed_for_a_second_says_that_it_was_that_second(api: Api) -> None:
    session_id = api.running_session(timeout=600)
    assert api.post(f"/sessions/{session_id}/renew", json={"timeout": 1}).status_code == 200
    seen = api.session_when(session_id, "timeout")
    assert (seen["status_reason"], seen["status_detail"]) == ("idle", "it was not used for 1 s")
    assert api.delete(f"/sessions/{session_id}").status_code == 204


def test_metrics_name_the_sandbox_that_sessions_are_in(server: Server, api: Api, session: str) -> None:
    (node,) = api.get("/health/detailed").json()["dependencies"]["runtime_nodes"]
    text = api.get(f"{server.url}/metrics").text
    assert re.findall(r'ipybox_build_info\{[^}]*sandbox="([^"]*)"', text) == [node["sandbox"]]
    assert node["sandbox"]


@pytest.mark.parametrize(("code", "words"), [("", "at least 1 character"), ("x" * 102_401, "at most 102400 char")])
def test_a_refusal_of_code_speaks_of_characters(api: Api, session: str, code: str, words: str) -> None:
    answer = api.post(f"/executions/sessions/{session}/execute", json={"code": code})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_the_requests_of_our_own_page_do_what_it_says(server: Server) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (block,) = (each for each in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "API=" in each)
    block = block.replace("http://localhost:8000", server.url).replace("curl -s", "curl --noproxy '*' -fsS ")
    command = ["bash", "-euo", "pipefail", "-c", block.replace("-fsS N", "-fsSN")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert '"return_value":{"sum":3}' in done.stdout
    assert "name,age\n" in done.stdout
    assert done.stdout.count("event: stdout") == 3 + 1
    assert done.stdout.count("event: end") == 2
    assert '"total":1' in done.stdout
