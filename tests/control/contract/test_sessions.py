"""Sessions over HTTP, as clients of the model ask for them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.control.serving import Api, eventually


def test_a_session_is_creating_at_first_and_running_a_moment_later(api: Api) -> None:
    body = {"template_id": "python", "timeout": 300, "cpu": "1", "memory": "512Mi", "disk": "1Gi", "env_vars": {}}
    answer = api.post("/sessions", json=body)
    assert answer.status_code == 201
    made = answer.json()
    assert made["status"] == "creating"
    assert re.fullmatch(r"sess_\d{8}_[a-z0-9]{8}", made["id"])
    assert made["template_id"] == "python"
    assert made["timeout"] == 300
    assert made["resource_limit"] == {"cpu": "1", "memory": "512Mi", "disk": "1Gi", "max_processes": 512}
    assert made["workspace_path"] == "/workspace"
    assert made["installed_dependencies"] == made["requested_dependencies"] == []
    assert made["dependency_install_status"] == "completed"
    assert made["dependency_install_error"] is None
    assert made["completed_at"] is None
    running = api.session_when(made["id"], "running", "failed")
    assert running["status"] == "running"
    assert running["container_id"]
    assert running["runtime_node"]
    assert running["started_at"] >= running["created_at"]
    assert api.delete(f"/sessions/{made['id']}").status_code == 204


def test_the_session_is_creating_while_somebody_looks_right_after_its_making(api: Api) -> None:
    """A wall of its own takes a while to build, so that who looks at once sees it coming up."""
    name = f"slow-{uuid4().hex[:8]}"
    assert api.post("/templates", json={"id": name, "name": name, "warm": False}).status_code == 201
    session_id = api.new_session(name)
    assert api.session(session_id)["status"] == "creating"
    assert api.session(session_id)["container_id"] is None
    assert api.session_when(session_id, "running", "failed")["container_id"]
    api.delete(f"/sessions/{session_id}")
    api.delete(f"/templates/{name}")


def test_many_sessions_made_at_once_have_sandboxes_of_their_own(api: Api) -> None:
    with ThreadPoolExecutor(5) as pool:
        ids = list(pool.map(lambda _: api.running_session(), range(5)))
    assert len(set(ids)) == 5
    assert len({api.session(each)["container_id"] for each in ids}) == 5
    for each in ids:
        assert api.delete(f"/sessions/{each}").status_code == 204


def test_a_terminated_session_keeps_its_record_and_a_deleted_one_nothing(api: Api) -> None:
    session_id = api.running_session()
    execution_id = api.run(session_id, "def handler(event): open('kept.txt', 'w').write('kept')")["id"]
    ended = api.post(f"/sessions/{session_id}/terminate")
    assert ended.status_code == 200
    assert ended.json()["status"] == "terminated"
    assert ended.json()["status_reason"] == "requested"
    assert ended.json()["completed_at"] is not None
    again = api.post(f"/sessions/{session_id}/terminate")
    assert (again.status_code, again.json()) == (200, ended.json())
    assert api.session(session_id) == ended.json()
    assert api.get(f"/sessions/{session_id}/files/kept.txt").text == "kept"
    assert api.execution(execution_id)["status"] == "completed"
    refused = api.post(f"/executions/sessions/{session_id}/execute", json={"code": "def handler(event): ..."})
    assert refused.status_code == 409
    assert "terminated" in refused.json()["detail"]
    assert api.put(f"/sessions/{session_id}/files/x", content=b"x").status_code == 409
    assert api.post(f"/sessions/{session_id}/renew", json={}).status_code == 409

    assert api.delete(f"/sessions/{session_id}").status_code == 204
    assert api.delete(f"/sessions/{session_id}").status_code == 404
    for path in ("", "/files", "/files/kept.txt"):
        assert api.get(f"/sessions/{session_id}{path}").status_code == 404
    assert api.post(f"/sessions/{session_id}/terminate").status_code == 404
    assert api.get(f"/executions/{execution_id}/status").status_code == 404
    assert api.get(f"/executions/sessions/{session_id}/executions").status_code == 404


def test_deleting_a_running_session_ends_what_runs_in_it(api: Api) -> None:
    session_id = api.running_session()
    execution_id = api.submit(
        session_id, "import time\ndef handler(event):\n    print('up', flush=True)\n    time.sleep(600)", timeout=900
    )
    api.said(execution_id, "up")
    assert api.delete(f"/sessions/{session_id}").status_code == 204
    assert api.get(f"/executions/{execution_id}").status_code == 404


def test_terminating_a_running_session_says_so_in_what_ran_and_what_waited(api: Api) -> None:
    session_id = api.running_session(mode="stateful")
    first = api.submit(session_id, "import time\nprint('up', flush=True)\ntime.sleep(600)", timeout=900)
    second = api.submit(session_id, "1")
    api.said(first, "up")
    assert api.post(f"/sessions/{session_id}/terminate").status_code == 200
    for execution_id in (first, second):
        found = api.execution(execution_id)
        assert (found["status"], found["status_reason"]) == ("crashed", "session_ended")
        assert found["error_message"]
    assert api.execution(first)["stdout"] == "up\n"
    api.delete(f"/sessions/{session_id}")


def test_a_session_that_is_deleted_while_it_comes_up_leaves_nothing(api: Api) -> None:
    for _ in range(5):
        session_id = api.new_session()
        assert api.delete(f"/sessions/{session_id}").status_code == 204
        assert api.get(f"/sessions/{session_id}").status_code == 404


def test_an_unknown_mode_is_taken_for_a_stateless_one(api: Api) -> None:
    answer = api.post("/sessions", json={"template_id": "python", "mode": "persistent"})
    assert answer.status_code == 201
    session_id = answer.json()["id"]
    assert answer.json()["mode"] == "stateless"
    first = api.session_when(session_id, "running")["container_id"]
    assert api.run(session_id, "def handler(event): return 1")["return_value"] == 1
    assert api.session(session_id)["container_id"] == first
    api.delete(f"/sessions/{session_id}")


def test_a_session_can_be_given_a_name_which_is_taken_once(api: Api) -> None:
    name = f"mine-{uuid4().hex[:8]}"
    assert api.new_session(id=name) == name
    answer = api.post("/sessions", json={"template_id": "python", "id": name})
    assert answer.status_code == 409
    assert api.delete(f"/sessions/{name}").status_code == 204
    assert api.new_session(id=name) == name
    assert api.delete(f"/sessions/{name}").status_code == 204


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": 5000},
        {"timeout": "soon"},
        {"id": "a" * 65},
        {"id": "../other"},
        {"id": ""},
        {"cpu": "0"},
        {"cpu": "many"},
        {"memory": "512"},
        {"memory": "0.5Gi"},
        {"memory": "512MB"},
        {"disk": "-1Gi"},
        {"env_vars": {"": "x"}},
        {"env_vars": {"A": 1}},
        {"dependencies": [{"name": "x"}] * 51},
        {"install_timeout": 29},
        {"install_timeout": 1801},
        {"python_package_index_url": "ftp://example.org"},
        {"tags": {"a b": "c"}},
        {"template_id": ""},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_the_place(api: Api, wrong: dict[str, object]) -> None:
    answer = api.post("/sessions", json={"template_id": "python", **wrong})
    assert answer.status_code == 422
    assert next(iter(wrong)) in answer.json()["detail"]


def test_a_template_that_does_not_exist_is_a_bad_request(api: Api) -> None:
    answer = api.post("/sessions", json={"template_id": "no-such-template"})
    assert answer.status_code == 400
    assert "no-such-template" in answer.json()["detail"]
    assert api.post("/sessions", json={}).status_code == 422


def test_limits_are_those_asked_for_within_the_template(api: Api) -> None:
    session_id = api.new_session(cpu="500m", memory="128Mi", disk="64Mi", max_processes=20)
    found = api.session(session_id)
    assert found["resource_limit"] == {"cpu": "0.5", "memory": "128Mi", "disk": "64Mi", "max_processes": 20}
    api.delete(f"/sessions/{session_id}")


def test_limits_beyond_the_template_are_cut_down_and_the_answer_says_so(api: Api) -> None:
    name = f"small-{uuid4().hex[:8]}"
    small = {"default_cpu_cores": 0.5, "default_memory_mb": 256, "default_disk_mb": 256, "max_processes": 32}
    assert api.post("/templates", json={"id": name, "name": name, "warm": False, **small}).status_code == 201
    session_id = api.new_session(name, cpu="4", memory="4Gi", disk="4Gi", max_processes=1000)
    found = api.session(session_id)
    assert found["resource_limit"] == {"cpu": "0.5", "memory": "256Mi", "disk": "256Mi", "max_processes": 32}
    api.delete(f"/sessions/{session_id}")
    api.delete(f"/templates/{name}")


def test_limits_with_which_nothing_starts_are_refused(api: Api) -> None:
    for body in ({"memory": "8Mi"}, {"memory": "1Mi", "disk": "1Gi"}):
        answer = api.post("/sessions", json={"template_id": "python", **body})
        assert answer.status_code == 400
        assert "memory" in answer.json()["detail"]


def test_hosts_beyond_the_template_are_refused(api: Api) -> None:
    name = f"net-{uuid4().hex[:8]}"
    network = {"allowed_domains": ["*.example.org", "example.com:443"], "denied_domains": ["bad.example.org"]}
    assert api.post("/templates", json={"id": name, "name": name, "warm": False, "network": network}).status_code == 201
    for hosts in (["example.net"], ["example.com:80"], ["a.example.org", "example.net"]):
        body = {"template_id": name, "network": {"allowed_domains": hosts}}
        answer = api.post("/sessions", json=body)
        assert answer.status_code == 400, hosts
        assert "not within what the template allows" in answer.json()["detail"]
    session_id = api.new_session(
        name, network={"allowed_domains": ["a.example.org"], "denied_domains": ["x.example.org"]}
    )
    found = api.session(session_id)["network"]
    assert found == {"allowed_domains": ["a.example.org"], "denied_domains": ["bad.example.org", "x.example.org"]}
    answer = api.post("/sessions", json={"template_id": "python", "network": {"allowed_domains": ["example.org"]}})
    assert answer.status_code == 400
    api.delete(f"/sessions/{session_id}")
    api.delete(f"/templates/{name}")


def test_a_host_that_code_wanted_and_might_not_reach_is_told(api: Api) -> None:
    name = f"net-{uuid4().hex[:8]}"
    network = {"allowed_domains": ["allowed.example"], "denied_domains": []}
    assert api.post("/templates", json={"id": name, "name": name, "warm": False, "network": network}).status_code == 201
    session_id = api.running_session(name)
    code = (
        "import urllib.request\n"
        "def handler(event):\n"
        "    try: urllib.request.urlopen('http://denied.example/', timeout=5)\n"
        "    except OSError as error: return 'refused'\n"
    )
    for times in (1, 2):
        assert api.run(session_id, code)["return_value"] == "refused"
        eventually(lambda: api.session(session_id)["denied_hosts"].get("denied.example", 0), times.__le__)
    assert api.post(f"/sessions/{session_id}/terminate").json()["denied_hosts"] == {"denied.example": 2}
    api.delete(f"/sessions/{session_id}")
    api.delete(f"/templates/{name}")


def test_without_allowed_hosts_there_is_no_network(api: Api, session: str) -> None:
    code = (
        "import socket\n"
        "def handler(event):\n"
        "    try: socket.create_connection(('192.0.2.1', 80), 5)\n"
        "    except OSError as error: return type(error).__name__\n"
    )
    assert api.run(session, code)["return_value"] not in (None, "TimeoutError")


def test_the_list_is_an_object_with_a_true_total_and_a_clamped_limit(api: Api) -> None:
    mark = uuid4().hex[:8]
    ids = [api.new_session(tags={"test": mark, "n": str(number)}) for number in range(3)]
    mine = {"tag": f"test:{mark}"}
    found = api.get("/sessions", params=mine).json()
    assert set(found) == {"items", "total", "limit", "offset", "has_more", "next_cursor"}
    assert [each["id"] for each in found["items"]] == ids[::-1]
    assert (found["total"], found["limit"], found["offset"], found["has_more"]) == (3, 50, 0, False)
    assert found["next_cursor"] is None
    for given, used in ((0, 1), (-5, 1), (201, 200), (10**9, 200), (2, 2)):
        assert api.get("/sessions", params={**mine, "limit": given}).json()["limit"] == used
    second = api.get("/sessions", params={**mine, "limit": 1, "offset": 1}).json()
    assert [each["id"] for each in second["items"]] == [ids[1]]
    assert (second["total"], second["offset"], second["has_more"]) == (3, 1, True)
    assert api.get("/sessions", params={**mine, "offset": 3}).json()["items"] == []
    one = api.get("/sessions", params={"tag": [f"test:{mark}", "n:1"]}).json()
    assert [each["id"] for each in one["items"]] == [ids[1]]
    assert api.get("/sessions", params={"tag": "no-colon"}).status_code == 400

    assert api.post(f"/sessions/{ids[0]}/terminate").status_code == 200
    ended = api.get("/sessions", params={**mine, "status": "terminated"}).json()
    assert [each["id"] for each in ended["items"]] == [ids[0]]
    both = api.get("/sessions", params={**mine, "status": ["terminated", "running", "creating"]}).json()
    assert both["total"] == 3
    assert api.get("/sessions", params={**mine, "template_id": "other"}).json()["total"] == 0
    assert api.get("/sessions", params={**mine, "template_id": "python"}).json()["total"] == 3
    assert api.get("/sessions", params={**mine, "mode": "stateful"}).json()["total"] == 0
    assert api.get("/sessions", params={"status": "nonsense"}).status_code == 422
    for each in ids:
        api.delete(f"/sessions/{each}")


def test_pages_by_cursor_show_each_session_once_though_others_come_and_go(api: Api) -> None:
    mark = uuid4().hex[:8]
    ids = [api.new_session(tags={"test": mark}) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    more: list[str] = []
    while True:
        params = {"tag": f"test:{mark}", "limit": "2", **({"cursor": cursor} if cursor else {})}
        page = api.get("/sessions", params=params).json()
        seen += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        assert page["has_more"] is (cursor is not None)
        if cursor is None:
            break
        more.append(api.new_session(tags={"test": mark}))
        api.delete(f"/sessions/{seen[0]}")
    assert seen == ids[::-1]
    assert api.get("/sessions", params={"cursor": "nonsense"}).status_code == 400
    for each in (*ids, *more):
        api.delete(f"/sessions/{each}")


def test_sessions_see_neither_files_nor_processes_of_each_other(api: Api, session: str, own_session: str) -> None:
    secret = uuid4().hex
    code = f"def handler(event):\n    for p in ('/tmp/s', '/workspace/s'): open(p, 'w').write('{secret}')"
    assert api.run(own_session, code)["status"] == "completed"
    look = (
        "import os\n"
        "def handler(event):\n"
        "    found = [p for d in ('/tmp', '/workspace', '/dev/shm') for p, _, files in os.walk(d) if 's' in files]\n"
        "    return [found, len([p for p in os.listdir('/proc') if p.isdigit()])]"
    )
    found, processes = api.run(session, look)["return_value"]
    assert found == []
    assert processes < 10
