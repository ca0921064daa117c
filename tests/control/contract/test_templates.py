"""Templates over HTTP, as clients of the model ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.control.serving import Api, eventually

BODY = {
    "image_url": "sandbox-template-python-basic:latest",
    "runtime_type": "python3.11",
    "default_cpu_cores": 1.0,
    "default_memory_mb": 512,
    "default_disk_mb": 1024,
}


@pytest.fixture
def template_id(api: Api) -> Iterator[str]:
    name = f"t-{uuid4().hex[:8]}"
    answer = api.post("/templates", json={"id": name, "name": name, **BODY, "default_timeout_sec": 300, "warm": False})
    assert answer.status_code == 201, answer.text
    yield name
    api.delete(f"/templates/{name}")


def test_a_new_template_is_answered_with_all_that_was_asked_for(api: Api, template_id: str) -> None:
    found = api.get(f"/templates/{template_id}").json()
    for name, value in BODY.items():
        assert found[name] == value
    assert found["id"] == found["name"] == template_id
    assert found["default_timeout"] == found["default_timeout_sec"] == 300
    assert found["is_active"] is True
    assert found["default_env_vars"] == {}
    assert found["created_at"] == found["updated_at"]


@pytest.mark.parametrize("name", ["default_timeout", "default_timeout_sec"])
def test_both_names_of_the_timeout_are_taken_and_both_are_answered(api: Api, template_id: str, name: str) -> None:
    answer = api.put(f"/templates/{template_id}", json={name: 600})
    assert answer.status_code == 200
    assert answer.json()["default_timeout_sec"] == answer.json()["default_timeout"] == 600
    made = {"id": f"{template_id}-2", "name": f"{template_id}-2", name: 120, "warm": False}
    assert api.post("/templates", json=made).json()["default_timeout_sec"] == 120
    assert api.delete(f"/templates/{template_id}-2").json() == {"message": "Template deleted successfully"}


def test_two_timeouts_that_differ_are_refused(api: Api) -> None:
    body = {"id": "two-timeouts", "name": "two", "default_timeout": 60, "default_timeout_sec": 61}
    assert api.post("/templates", json=body).status_code == 422


def test_the_list_is_a_bare_list_with_limit_and_offset(api: Api, template_id: str) -> None:
    found = api.get("/templates").json()
    assert isinstance(found, list)
    assert {"python", template_id} <= {each["id"] for each in found}
    assert found[0]["created_at"] <= found[-1]["created_at"]
    one = api.get("/templates", params={"limit": 1}).json()
    assert one == found[:1]
    assert api.get("/templates", params={"limit": 1, "offset": 1}).json() == found[1:2]
    assert api.get("/templates", params={"offset": 10_000}).json() == []
    assert api.get("/templates", params={"limit": 0}).status_code == 422


def test_an_id_or_a_name_that_is_taken_is_a_conflict(api: Api, template_id: str) -> None:
    same_id = {"id": template_id, "name": f"{template_id} other"}
    same_name = {"id": f"{template_id}-other", "name": template_id}
    for body in (same_id, same_name):
        answer = api.post("/templates", json=body)
        assert answer.status_code == 409
        assert answer.json()["error"] == "Conflict"
    assert api.put("/templates/" + template_id, json={"name": "Python"}).status_code == 409


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another name"},
        {"image_url": "other:1"},
        {"runtime_type": "nodejs20"},
        {"default_cpu_cores": 2.5},
        {"default_memory_mb": 256},
        {"default_disk_mb": 256},
        {"default_env_vars": {"A": "1"}},
        {"max_processes": 32},
        {"preload": ["json"]},
        {"packages": [{"name": "six", "version": "==1.17.0"}]},
        {"package_index_url": "http://127.0.0.1:9/simple"},
        {"network": {"allowed_domains": ["example.org"], "denied_domains": []}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_field_can_be_changed_by_itself(api: Api, template_id: str, change: dict[str, object]) -> None:
    before = api.get(f"/templates/{template_id}").json()
    answer = api.put(f"/templates/{template_id}", json=change)
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert after == {**before, **change, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert api.get(f"/templates/{template_id}").json() == after


def test_changes_that_are_made_at_once_are_all_kept(api: Api, template_id: str) -> None:
    fields = {"default_memory_mb": 200, "default_disk_mb": 300, "max_processes": 40, "default_timeout": 100}
    for step in range(10):
        bodies = [{name: value + step} for name, value in fields.items()]
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = list(pool.map(lambda body: api.put(f"/templates/{template_id}", json=body), bodies))
        assert [each.status_code for each in answers] == [200] * len(bodies)
        found = api.get(f"/templates/{template_id}").json()
        assert {name: found[name] for name in fields} == {name: value + step for name, value in fields.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "a" * 65},
        {"id": "../etc"},
        {"name": ""},
        {"name": "n" * 256},
        {"image_url": ""},
        {"image_url": "i" * 513},
        {"runtime_type": "cobol60"},
        {"default_cpu_cores": 0.05},
        {"default_cpu_cores": 5},
        {"default_memory_mb": 127},
        {"default_memory_mb": 8193},
        {"default_disk_mb": 255},
        {"default_disk_mb": 51201},
        {"default_timeout": 59},
        {"default_timeout_sec": 3601},
        {"default_env_vars": {"A=B": "1"}},
        {"default_env_vars": {"A": "\0"}},
        {"preload": ["os; import sys"]},
        {"packages": [{"name": "../x"}]},
        {"package_index_url": "file:///etc"},
        {"network": {"allowed_domains": ["http://example.org/"]}},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_the_place(api: Api, wrong: dict[str, object]) -> None:
    answer = api.post("/templates", json={"id": "wrong", "name": "wrong", **wrong})
    assert answer.status_code == 422
    problem = answer.json()
    assert next(iter(wrong)) in problem["detail"].replace("default_timeout_sec", "default_timeout default_timeout_sec")
    assert problem["errors"][0]["loc"][0] == "body"
    assert api.get("/templates/wrong").status_code == 404


def test_is_active_and_unknown_fields_of_a_request_are_ignored(api: Api, template_id: str) -> None:
    answer = api.put(f"/templates/{template_id}", json={"is_active": False, "nonsense": 1})
    assert answer.status_code == 200
    assert answer.json()["is_active"] is True


def test_a_deleted_template_is_gone_and_its_sessions_go_on(api: Api, template_id: str) -> None:
    session_id = api.running_session(template_id)
    answer = api.delete(f"/templates/{template_id}")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Template deleted successfully"}
    assert api.get(f"/templates/{template_id}").status_code == 404
    assert api.put(f"/templates/{template_id}", json={"name": "x"}).status_code == 404
    assert api.delete(f"/templates/{template_id}").status_code == 404
    assert api.post("/sessions", json={"template_id": template_id}).status_code == 400
    assert api.run(session_id, "def handler(event): return 1")["return_value"] == 1
    assert api.delete(f"/sessions/{session_id}").status_code == 204


def test_the_built_in_template_stays(api: Api) -> None:
    assert api.delete("/templates/python").status_code == 409
    assert api.get("/templates/python").status_code == 200


def test_sessions_have_what_the_template_says(api: Api, template_id: str) -> None:
    change = {"default_env_vars": {"A": "template", "B": "template"}, "default_timeout": 77, "default_memory_mb": 256}
    assert api.put(f"/templates/{template_id}", json=change).status_code == 200
    session_id = api.new_session(template_id, env_vars={"B": "session"})
    found = api.session(session_id)
    assert found["timeout"] == 77
    assert found["resource_limit"]["memory"] == "256Mi"
    assert found["env_vars"] == {"A": "template", "B": "session"}
    code = "import os\ndef handler(event): return [os.environ['A'], os.environ['B']]"
    assert api.run(session_id, code)["return_value"] == ["template", "session"]
    api.delete(f"/sessions/{session_id}")


def test_a_preloaded_module_is_there_before_the_code(api: Api, template_id: str) -> None:
    assert api.put(f"/templates/{template_id}", json={"preload": ["colorsys"]}).status_code == 200
    session_id = api.new_session(template_id)
    code = "import sys\nthere = 'colorsys' in sys.modules\ndef handler(event): return there"
    assert api.run(session_id, code)["return_value"] is True
    api.delete(f"/sessions/{session_id}")


def test_a_preload_that_fails_fails_the_session_and_says_why(api: Api, template_id: str) -> None:
    assert api.put(f"/templates/{template_id}", json={"preload": ["no_such_module_here"]}).status_code == 200
    session_id = api.new_session(template_id)
    found = api.session_when(session_id, "failed")
    assert found["status_reason"] == "start_failed"
    assert "no_such_module_here" in found["status_detail"]
    api.delete(f"/sessions/{session_id}")


def test_a_warm_template_that_cannot_be_is_seen_in_the_health(api: Api) -> None:
    name = f"cold-{uuid4().hex[:8]}"
    body = {"id": name, "name": name, "preload": ["no_such_module_here"], "warm": True}
    assert api.post("/templates", json=body).status_code == 201

    def failures() -> dict[str, str]:
        found: dict[str, str] = api.get("/health/detailed").json()["dependencies"].get("templates", {})
        return dict(found.get("failures", {}))  # type: ignore[arg-type]

    assert "no_such_module_here" in eventually(failures, lambda seen: name in seen)[name]
    assert api.get("/health/detailed").json()["status"] == "degraded"
    api.delete(f"/templates/{name}")
    assert name not in failures()


@pytest.mark.parametrize("runtime", ["java17", "go1.21"])
def test_a_runtime_that_is_not_here_is_refused_when_a_session_is_wanted(
    api: Api, template_id: str, runtime: str
) -> None:
    assert api.put(f"/templates/{template_id}", json={"runtime_type": runtime}).status_code == 200
    answer = api.post("/sessions", json={"template_id": template_id})
    assert answer.status_code == 400
    assert runtime in answer.json()["detail"]
