"""Every operation of the document, with every kind of key: what is not in the table here is not forgotten, it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.control.serving import HELLO, Api, Server

SCOPES = ("read", "execute", "templates", "internal", "admin")
_DEPENDENCY = {"dependencies": [{"name": "six"}]}
NEEDED: dict[str, tuple[str | None, dict[str, Any] | None]] = {
    # operation: the scope that it needs ("" is any key, None is no key at all), and a body that makes sense
    "create_template": ("templates", {"id": "python", "name": "x"}),
    "list_templates": ("read", None),
    "get_template": ("read", None),
    "update_template": ("templates", {"name": "mine"}),
    "delete_template": ("templates", None),
    "create_session": ("execute", {"template_id": "none"}),
    "list_sessions": ("read", None),
    "get_session": ("read", None),
    "delete_session": ("execute", None),
    "terminate_session": ("execute", None),
    "renew_session": ("execute", {}),
    "install_dependencies": ("execute", _DEPENDENCY),
    "execute": ("execute", {"code": HELLO}),
    "execute_sync": ("execute", {"code": HELLO}),
    "list_executions": ("read", None),
    "get_execution": ("read", None),
    "get_execution_status": ("read", None),
    "get_execution_result": ("read", None),
    "list_events": ("read", None),
    "stream_events": ("read", None),
    "interrupt": ("execute", None),
    "list_files": ("read", None),
    "upload_file": ("execute", None),
    "put_file": ("execute", None),
    "download_file": ("read", None),
    "delete_file": ("execute", None),
    "health": (None, None),
    "detailed_health": ("read", None),
    "synchronise": ("admin", None),
    "create_key": ("admin", {"name": "x", "owner": "x"}),
    "list_keys": ("admin", None),
    "get_own_key": ("", None),
    "rotate_key": ("admin", {}),
    "revoke_key": ("admin", None),
    "list_audit": ("admin", None),
    "container_ready": ("internal", {"container_id": "x"}),
    "container_exited": ("internal", {"container_id": "x"}),
    "heartbeat": ("internal", None),
    "report_result": ("internal", {"status": "completed"}),
}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings: dict[str, Any] = {"auth": "always", "console": False, "rate_limit": "100000/minute"}
    with Server(tmp_path_factory.mktemp("locked") / "state", **settings) as running:
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="module")
def admin(locked: Server) -> Api:
    return locked.api(locked.new_key("first", "operator", "admin"))


def key_of(locked: Server, admin: Api, owner: str, *scopes: str) -> Api:
    answer = admin.post("/keys", json={"name": "x", "owner": owner, "scopes": scopes})
    return locked.api(answer.json()["secret"])


@pytest.fixture(scope="module")
def operations(locked: Server) -> dict[str, tuple[str, str]]:
    """Method and path, below the prefix, of each operation."""
    document = locked.api().get(f"{locked.url}/openapi.json").json()
    return {
        facts["operationId"]: (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in document["paths"].items()
        for method, facts in methods.items()
    }


@pytest.fixture(scope="module")
def theirs(admin: Api) -> dict[str, str]:
    """Things of the operator."""
    session_id = admin.running_session()
    execution_id = admin.run(session_id, HELLO)["id"]
    admin.put(f"/sessions/{session_id}/files/f", content=b"theirs")
    admin.post("/templates", json={"id": "theirs", "name": "theirs", "warm": False})
    return {
        "session_id": session_id,
        "execution_id": execution_id,
        "template_id": "theirs",
        "file_path": "f",
        "key_id": admin.get("/keys/self").json()["key_id"],
    }


def asked(api: Api, operation: str, method: str, path: str, things: dict[str, str]) -> httpx.Response:
    path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: things[found[1]], path)
    query = {"path": "f"} if operation == "upload_file" else {}
    return api.request(method, path, params=query, json=NEEDED[operation][1])


def test_all_operations_are_known_here(operations: dict[str, tuple[str, str]]) -> None:
    assert set(operations) == set(NEEDED)


def test_without_a_key_and_with_a_key_for_something_else_no_operation_is_done(
    locked: Server, admin: Api, operations: dict[str, tuple[str, str]], theirs: dict[str, str]
) -> None:
    keys = {scope: key_of(locked, admin, "other", scope) for scope in SCOPES}
    nobody = locked.api()
    for operation, (method, path) in operations.items():
        needed = NEEDED[operation][0]
        answer = asked(nobody, operation, method, path, theirs)
        assert answer.status_code == (200 if needed is None else 401), (operation, answer.text)
        for scope, api in keys.items():
            if needed and scope not in (needed, "admin"):
                answer = asked(api, operation, method, path, theirs)
                assert answer.status_code == 403, (operation, scope, answer.text)


def test_with_all_scopes_but_admin_nothing_of_others_is_seen_or_changed(
    locked: Server, admin: Api, operations: dict[str, tuple[str, str]], theirs: dict[str, str]
) -> None:
    other = key_of(locked, admin, "other", *SCOPES[:-1])
    for operation, (method, path) in operations.items():
        answer = asked(other, operation, method, path, theirs)
        if "{session_id}" in path or "{execution_id}" in path:
            assert answer.status_code == 404, (operation, answer.text)
            missing = asked(other, operation, method, path, {**theirs, "session_id": "none", "execution_id": "none"})
            known = {value: name for name, value in theirs.items()}
            same = answer.json()["detail"]
            for value, name in known.items():
                same = same.replace(value, "none") if name in ("session_id", "execution_id") else same
            assert (missing.status_code, missing.json()["detail"]) == (404, same), operation
        elif operation in ("update_template", "delete_template", "create_template"):
            assert answer.status_code in (403, 409), (operation, answer.text)
        elif NEEDED[operation][0] == "admin":
            assert answer.status_code == 403, (operation, answer.text)
        else:
            assert not any(theirs[name] in answer.text for name in ("session_id", "execution_id")), operation
    assert admin.session(theirs["session_id"])["status"] == "running"
    assert admin.get(f"/sessions/{theirs['session_id']}/files/f").content == b"theirs"
    assert admin.get("/templates/theirs").json()["name"] == "theirs"
