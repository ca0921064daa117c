"""Two servers with one database and one bucket."""

from __future__ import annotations

from tests.control.object_store import ObjectStore
from tests.control.serving import HELLO, Api, Server


def test_both_see_the_same_and_each_runs_its_own(api: Api, other: Api, session: str) -> None:
    theirs = other.running_session()
    here, there = (each.get("/health/detailed").json() for each in (api, other))
    nodes = [each["dependencies"]["runtime_nodes"][0]["name"] for each in (here, there)]
    assert len({*nodes}) == 2
    for each in (api, other):
        assert [each.session(one)["runtime_node"] for one in (session, theirs)] == nodes
    found = api.run(session, HELLO)
    assert other.execution(found["id"]) == found
    assert other.post("/health/sync").json()["result"]["resumed"] == []
    assert api.run(session, HELLO)["status"] == other.run(theirs, HELLO)["status"] == "completed"
    assert other.delete(f"/sessions/{theirs}").status_code == 204
    assert api.get(f"/sessions/{theirs}").status_code == 404


def test_a_server_refuses_what_the_other_one_has_to_do_and_says_which(
    api: Api, other: Api, session: str, object_store: ObjectStore, bucket: str
) -> None:
    assert api.put(f"/sessions/{session}/files/mine.txt", content=b"mine").status_code == 200
    execution = api.submit(session, "echo up; sleep 600", language="shell", timeout=900)
    api.said(execution, "up")
    node, url = api.session(session)["runtime_node"], f"/sessions/{session}"
    packages = {"dependencies": [{"name": "none"}]}
    answers = [
        other.post(f"/executions{url}/execute", json={"code": HELLO}),
        other.post(f"/executions{url}/execute-sync", json={"code": HELLO}),
        other.post(f"/executions/{execution}/interrupt"),
        other.post(f"{url}/terminate"),
        other.post(f"{url}/renew", json={}),
        other.post(f"{url}/dependencies/install", json=packages),
        other.delete(url),
        other.put(f"{url}/files/mine.txt", content=b"theirs"),
        other.get(f"{url}/files/mine.txt"),
        other.get(f"{url}/files"),
        other.delete(f"{url}/files/mine.txt"),
    ]
    for answer in answers:
        assert answer.status_code == 409, answer.text
        assert node in answer.json()["detail"]
    assert object_store.content(bucket, f"prod/sessions/{session}/files/mine.txt") == b"mine"
    assert api.session(session)["status"] == "running"
    assert api.execution(execution)["status"] == "running"


def test_what_one_server_runs_can_be_followed_at_the_other_one(api: Api, other: Api, session: str) -> None:
    execution = api.submit(session, "echo up; while ! [ -e go ]; do sleep 0.02; done; echo went", language="shell")
    api.said(execution, "up")
    assert other.get(f"/executions/{execution}/events").json()["is_final"] is False
    with other.stream("GET", f"/executions/{execution}/stream") as stream:
        lines = stream.iter_lines()
        while "event: stdout" not in next(lines):
            pass
        assert api.put(f"/sessions/{session}/files/go", content=b"").status_code == 200
        rest = [*lines]
    assert rest.count("event: end") == 1
    assert "went" in "".join(rest)
    assert other.execution(execution)["status"] == "completed"
    assert other.get(f"/executions/{execution}/events").json()["is_final"] is True


def test_what_was_asked_of_one_server_is_not_made_again_by_the_other(api: Api, other: Api, session: str) -> None:
    key = {"Idempotency-Key": "at-both"}
    url, body = f"/executions/sessions/{session}/execute-sync", {"code": "echo $RANDOM", "language": "shell"}
    assert api.post(url, json=body, headers=key).json() == other.post(url, json=body, headers=key).json()


def test_what_has_ended_can_be_removed_by_any_of_them(
    api: Api, other: Api, first: Server, object_store: ObjectStore, bucket: str
) -> None:
    session = api.running_session()
    api.put(f"/sessions/{session}/files/left.txt", content=b"left")
    api.post(f"/sessions/{session}/terminate")
    assert other.delete(f"/sessions/{session}").status_code == 204
    assert api.get(f"/sessions/{session}").status_code == 404
    assert object_store.keys(bucket, f"prod/sessions/{session}/") == []
    assert session in api.post("/health/sync").json()["result"]["removed"]
    assert not (first.state_dir / "sandboxes" / "sessions" / session).exists()
