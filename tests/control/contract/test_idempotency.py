"""Requests with an Idempotency-Key: what they make is made once, however often they are sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.control.serving import Api


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid4().hex}


def test_the_same_request_has_the_same_answer_and_makes_one_session(api: Api) -> None:
    mark, headers = uuid4().hex, keyed()
    body = {"template_id": "python", "tags": {"mark": mark}}
    first = api.post("/sessions", json=body, headers=headers)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    again = api.post("/sessions", json=body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert api.get("/sessions", params={"tag": f"mark:{mark}"}).json()["total"] == 1
    api.delete(f"/sessions/{first.json()['id']}")
    assert api.post("/sessions", json=body, headers=headers).json() == first.json()
    assert api.get("/sessions", params={"tag": f"mark:{mark}"}).json()["total"] == 0


def test_another_request_with_the_same_key_is_refused(api: Api, session: str) -> None:
    headers = keyed()
    first = api.post("/sessions", json={"template_id": "python"}, headers=headers)
    assert first.status_code == 201
    other = api.post("/sessions", json={"template_id": "python", "timeout": 60}, headers=headers)
    assert other.status_code == 400
    assert "Idempotency-Key" in other.json()["detail"]
    route = api.post(
        f"/executions/sessions/{session}/execute", json={"template_id": "python", "code": "1"}, headers=headers
    )
    assert route.status_code == 400
    api.delete(f"/sessions/{first.json()['id']}")


@pytest.mark.parametrize("route", ["execute", "execute-sync"])
def test_code_is_run_once(api: Api, own_session: str, route: str) -> None:
    code = "def handler(event):\n    open('runs.txt', 'a').write('x')\n    return open('runs.txt').read()"
    headers = keyed()
    url = f"/executions/sessions/{own_session}/{route}"
    first, second = (api.post(url, json={"code": code}, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    api.execution_when(first.json()["execution_id"])
    assert api.get(f"/sessions/{own_session}/files/runs.txt").text == "x"
    assert api.get(f"/executions/sessions/{own_session}/executions").json()["total"] == 1


def test_many_at_once_make_one(api: Api) -> None:
    mark, headers = uuid4().hex, keyed()
    body = {"template_id": "python", "tags": {"mark": mark}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/sessions", json=body, headers=headers), range(8)))
    made = {each.json()["id"] for each in answers if each.status_code == 201}
    assert len(made) == 1
    assert {each.status_code for each in answers} <= {201, 409}
    assert api.get("/sessions", params={"tag": f"mark:{mark}"}).json()["total"] == 1
    api.delete(f"/sessions/{made.pop()}")


def test_a_request_that_failed_can_be_sent_again(api: Api) -> None:
    headers = keyed()
    name = f"t-{uuid4().hex[:8]}"
    assert api.post("/sessions", json={"template_id": name}, headers=headers).status_code == 400
    assert api.post("/templates", json={"id": name, "name": name, "warm": False}, headers=keyed()).status_code == 201
    answer = api.post("/sessions", json={"template_id": name}, headers=headers)
    assert answer.status_code == 201
    api.delete(f"/sessions/{answer.json()['id']}")
    api.delete(f"/templates/{name}")


def test_a_name_that_is_taken_is_a_conflict_though_the_key_is_new(api: Api, session: str) -> None:
    answer = api.post("/sessions", json={"template_id": "python", "id": session}, headers=keyed())
    assert answer.status_code == 409


def test_a_template_is_made_once(api: Api) -> None:
    name, headers = f"t-{uuid4().hex[:8]}", keyed()
    body = {"id": name, "name": name, "warm": False}
    first, second = (api.post("/templates", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert api.post("/templates", json=body, headers=keyed()).status_code == 409
    api.delete(f"/templates/{name}")


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ä"])
def test_a_key_that_is_none_is_refused(api: Api, key: str) -> None:
    headers = httpx.Headers({b"Idempotency-Key": key.encode()})
    assert api.post("/sessions", json={"template_id": "python"}, headers=headers).status_code == 422
