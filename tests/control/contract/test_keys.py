"""Keys over HTTP: who may what, and whose is what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.control.serving import HELLO, Api, Server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key of everybody."""
    with Server(tmp_path_factory.mktemp("locked") / "state", console=False, auth="always") as running:
        yield running
        assert running.log.count("ipybox_") == running.log.count("_[hidden]"), "a key is in the log"


@pytest.fixture(scope="module")
def admin(locked: Server) -> Api:
    """With the first key, which the operator makes beside the running server."""
    return locked.api(locked.new_key("first", "operator", "admin"))


def make_key(admin: Api, owner: str | None = None, *scopes: str, **more: Any) -> tuple[str, str]:
    """Id and secret of a new key."""
    body = {"name": "test", "owner": owner or f"o-{uuid4().hex[:8]}", **({"scopes": scopes} if scopes else {}), **more}
    answer = admin.post("/keys", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["key"]["id"], answer.json()["secret"]


@pytest.fixture
def alice(locked: Server, admin: Api) -> Api:
    return locked.api(make_key(admin)[1])


@pytest.fixture
def bob(locked: Server, admin: Api) -> Api:
    return locked.api(make_key(admin)[1])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sessions"),
        ("POST", "/sessions"),
        ("GET", "/templates"),
        ("GET", "/executions/x"),
        ("POST", "/executions/sessions/x/execute"),
        ("PUT", "/sessions/x/files/y"),
        ("GET", "/health/detailed"),
        ("POST", "/health/sync"),
        ("GET", "/keys"),
        ("GET", "/keys/self"),
        ("GET", "/audit"),
        ("POST", "/internal/containers/ready"),
        ("GET", "/nothing/here"),
    ],
)
def test_without_a_key_nothing_is_told(locked: Server, method: str, path: str) -> None:
    answer = locked.api().request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_key_the_health_the_docs_and_the_schema_are_told(locked: Server) -> None:
    api = locked.api()
    assert api.get("/health").status_code == 200
    for path in ("/", "/docs", "/openapi.json"):
        assert api.get(locked.url + path).status_code == 200
    assert api.get(f"{locked.url}/metrics").status_code == 401


def test_without_a_key_nothing_of_a_body_is_read(locked: Server) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 65536
        pytest.fail("all of it was read")

    for method, path in (
        ("PUT", "/sessions/x/files/y"),
        ("POST", "/sessions/x/files/upload?path=y"),
        ("POST", "/sessions"),
    ):
        try:
            answer = locked.api().request(method, path, content=endless())
        except httpx.TransportError:
            continue  # the server has hung up while we were still sending
        assert answer.status_code == 401


def test_a_key_that_does_not_count_is_refused(locked: Server, admin: Api) -> None:
    _, secret = make_key(admin)
    wrong = [
        "x",
        "ipybox_" + "a" * 50,
        secret[:-1],
        secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        secret + "x",
    ]
    for each in wrong:
        assert locked.api(headers={"Authorization": f"Bearer {each}"}).get("/sessions").status_code == 401
    assert locked.api(headers={"Authorization": f"Basic {secret}"}).get("/sessions").status_code == 401
    assert locked.api(headers={"X-API-Key": secret}).get("/sessions").status_code == 200
    assert locked.api(secret).get("/sessions").status_code == 200
    assert locked.api().get("/sessions", params={"api_key": secret}).status_code == 401


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        (("read",), {"look"}),
        (("read", "execute"), {"look", "run"}),
        (("execute",), {"run"}),
        (("read", "templates"), {"look", "templates"}),
        (("internal",), {"internal"}),
        (("admin",), {"look", "run", "templates", "internal", "admin"}),
    ],
    ids=lambda each: "+".join(sorted(each)),
)
def test_a_scope_allows_what_it_says_and_nothing_else(
    locked: Server, admin: Api, scopes: tuple[str, ...], may: set[str]
) -> None:
    api = locked.api(make_key(admin, None, *scopes)[1])
    name = f"t-{uuid4().hex[:8]}"
    wanted = {
        "look": api.get("/sessions"),
        "run": api.post("/sessions", json={"template_id": "python"}),
        "templates": api.post("/templates", json={"id": name, "name": name, "warm": False}),
        "internal": api.post("/internal/containers/ready", json={"container_id": "x"}),
        "admin": api.get("/keys"),
    }
    for what, answer in wanted.items():
        assert (answer.status_code < 300) is (what in may), (what, answer.text)
        if what not in may:
            assert answer.status_code == 403
            assert "scope" in answer.json()["detail"]
    assert set(api.get("/keys/self").json()["scopes"]) == set(scopes) if "admin" not in scopes else True
    if wanted["run"].status_code == 201:
        admin.delete(f"/sessions/{wanted['run'].json()['id']}")


def test_what_belongs_to_somebody_else_does_not_exist(admin: Api, alice: Api, bob: Api) -> None:
    session_id = alice.running_session(tags={"of": "alice"})
    assert alice.put(f"/sessions/{session_id}/files/f", content=b"hers").status_code == 200
    execution_id = alice.run(session_id, HELLO)["id"]
    for method, path, body in (
        ("GET", f"/sessions/{session_id}", None),
        ("DELETE", f"/sessions/{session_id}", None),
        ("POST", f"/sessions/{session_id}/terminate", None),
        ("POST", f"/sessions/{session_id}/renew", {}),
        ("POST", f"/sessions/{session_id}/dependencies/install", {"dependencies": [{"name": "six"}]}),
        ("GET", f"/sessions/{session_id}/files", None),
        ("GET", f"/sessions/{session_id}/files/f", None),
        ("PUT", f"/sessions/{session_id}/files/f", None),
        ("DELETE", f"/sessions/{session_id}/files/f", None),
        ("POST", f"/executions/sessions/{session_id}/execute", {"code": HELLO}),
        ("POST", f"/executions/sessions/{session_id}/execute-sync", {"code": HELLO}),
        ("GET", f"/executions/sessions/{session_id}/executions", None),
        ("GET", f"/executions/{execution_id}", None),
        ("GET", f"/executions/{execution_id}/status", None),
        ("GET", f"/executions/{execution_id}/result", None),
        ("GET", f"/executions/{execution_id}/events", None),
        ("GET", f"/executions/{execution_id}/stream", None),
        ("POST", f"/executions/{execution_id}/interrupt", None),
    ):
        answer = bob.request(method, path, json=body)
        assert answer.status_code == 404, (method, path, answer.text)
        missing = bob.request(
            method, path.replace(session_id, "sess_none").replace(execution_id, "exec_none"), json=body
        )
        assert missing.status_code == 404
        theirs, none = answer.json()["detail"], missing.json()["detail"]
        assert theirs.replace(session_id, "sess_none").replace(execution_id, "exec_none") == none
    assert bob.get("/sessions").json()["total"] == 0
    assert [each["id"] for each in alice.get("/sessions").json()["items"]] == [session_id]
    assert alice.get(f"/sessions/{session_id}/files/f").text == "hers"
    assert admin.session(session_id)["owner"] == alice.get("/keys/self").json()["owner"]
    assert bob.post("/sessions", json={"template_id": "python", "id": session_id}).status_code == 409
    assert alice.delete(f"/sessions/{session_id}").status_code == 204


def test_a_template_is_for_all_and_changed_by_its_owner_only(locked: Server, admin: Api) -> None:
    owner = locked.api(make_key(admin, None, "read", "templates")[1])
    other = locked.api(make_key(admin, None, "read", "templates")[1])
    name = f"t-{uuid4().hex[:8]}"
    assert owner.post("/templates", json={"id": name, "name": name, "warm": False}).status_code == 201
    assert other.get(f"/templates/{name}").status_code == 200
    assert other.put(f"/templates/{name}", json={"name": "taken over"}).status_code == 403
    assert other.delete(f"/templates/{name}").status_code == 403
    assert owner.put("/templates/python", json={"name": "taken over"}).status_code == 403
    assert owner.put(f"/templates/{name}", json={"default_timeout": 61}).status_code == 200
    assert owner.delete(f"/templates/{name}").status_code == 200


def test_two_keys_of_one_owner_see_the_same(locked: Server, admin: Api) -> None:
    owner = f"o-{uuid4().hex[:8]}"
    first, second = (locked.api(make_key(admin, owner)[1]) for _ in range(2))
    session_id = first.new_session()
    assert second.session(session_id)["owner"] == owner
    assert second.delete(f"/sessions/{session_id}").status_code == 204


def test_a_rotated_key_keeps_its_owner_and_the_old_one_is_refused(locked: Server, admin: Api) -> None:
    key_id, secret = make_key(admin, None, "read", max_sessions=3)
    old = locked.api(secret)
    before = old.get("/keys/self").json()
    answer = admin.post(f"/keys/{key_id}/rotate", json={})
    assert answer.status_code == 201
    assert answer.json()["key"]["rotated_from"] == key_id
    after = locked.api(answer.json()["secret"]).get("/keys/self").json()
    assert after == {**before, "key_id": answer.json()["key"]["id"]}
    assert old.get("/keys/self").status_code == 401


def test_a_rotated_key_may_be_good_for_a_while_longer(locked: Server, admin: Api) -> None:
    key_id, secret = make_key(admin)
    assert admin.post(f"/keys/{key_id}/rotate", json={"overlap": 3600}).status_code == 201
    assert locked.api(secret).get("/sessions").status_code == 200


def test_a_revoked_key_is_refused_at_once(locked: Server, admin: Api) -> None:
    key_id, secret = make_key(admin)
    api = locked.api(secret)
    assert api.get("/sessions").status_code == 200
    assert admin.delete(f"/keys/{key_id}").status_code == 204
    assert api.get("/sessions").status_code == 401
    assert admin.delete("/keys/none").status_code == 404
    listed = next(each for each in admin.get("/keys").json() if each["id"] == key_id)
    assert listed["revoked_at"] is not None


def test_keys_are_listed_without_their_secrets(admin: Api) -> None:
    owner = f"o-{uuid4().hex[:8]}"
    key_id, secret = make_key(admin, owner, "read", expires_in=3600)
    found = admin.get("/keys", params={"owner": owner})
    assert [each["id"] for each in found.json()] == [key_id]
    assert found.json()[0]["expires_at"] > found.json()[0]["created_at"]
    assert secret not in found.text
    assert secret.rpartition("_")[2] not in found.text
    assert "hash" not in found.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"owner": ""},
        {"owner": "a/b"},
        {"name": ""},
        {"expires_in": 0},
        {"max_sessions": -1},
    ],
    ids=str,
)
def test_a_key_that_makes_no_sense_is_refused(admin: Api, wrong: dict[str, Any]) -> None:
    assert admin.post("/keys", json={"name": "x", "owner": "x", **wrong}).status_code == 422


def test_what_is_done_to_keys_is_in_the_audit_log(admin: Api) -> None:
    key_id, secret = make_key(admin)
    assert admin.delete(f"/keys/{key_id}").status_code == 204
    found = admin.get("/audit", params={"target": key_id})
    assert [each["action"] for each in found.json()["items"]] == ["key.revoke", "key.create"]
    assert found.json()["items"][0]["actor"] == admin.get("/keys/self").json()["key_id"]
    assert secret not in found.text


# ---- how much -----------------------------------------------------------------------------------------------------


def test_a_key_has_as_many_sessions_as_it_may(locked: Server, admin: Api) -> None:
    api = locked.api(make_key(admin, None, "read", "execute", max_sessions=2)[1])
    ids = [api.new_session() for _ in range(2)]
    answer = api.post("/sessions", json={"template_id": "python"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "2 sessions" in answer.json()["detail"]
    assert api.post(f"/sessions/{ids[0]}/terminate").status_code == 200
    ids.append(api.new_session())
    for each in ids:
        assert api.delete(f"/sessions/{each}").status_code == 204


def test_a_key_has_as_many_executions_as_it_may(locked: Server, admin: Api) -> None:
    api = locked.api(make_key(admin, None, "read", "execute", max_executions=2)[1])
    session_id = api.running_session()
    code = "import time\ndef handler(event): time.sleep(600)"
    ids = [api.submit(session_id, code, timeout=900) for _ in range(2)]
    answer = api.post(f"/executions/sessions/{session_id}/execute", json={"code": HELLO})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert api.post(f"/executions/{ids[0]}/interrupt").json()["interrupted"] is True
    api.execution_when(ids[0])
    assert api.run(session_id, HELLO)["status"] == "completed"
    assert api.delete(f"/sessions/{session_id}").status_code == 204
