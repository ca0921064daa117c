"""What a server depends on goes away, and comes back."""

from __future__ import annotations

from tests.control.object_store import ObjectStore
from tests.control.postgres_server import PostgresServer
from tests.control.serving import HELLO, Api, eventually


def test_without_the_object_store_nothing_is_promised_and_the_server_goes_on(
    api: Api, session: str, object_store: ObjectStore, bucket: str
) -> None:
    prefix, url = f"prod/sessions/{session}/files", f"/sessions/{session}/files"
    assert api.put(f"{url}/before.txt", content=b"before").status_code == 200
    with object_store.away():
        upload = api.put(f"{url}/during.txt", content=b"during")
        assert (upload.status_code, upload.headers["content-type"]) == (502, "application/problem+json")
        assert "object store" in upload.json()["detail"]
        assert api.get(f"{url}/during.txt").status_code == 404
        assert api.get(f"{url}/before.txt").content == b"before"
        assert api.get(f"{url}/before.txt", params={"presign": True}).status_code == 502
        failed = api.run(session, "echo made > made.txt", language="shell")
        assert (failed["status"], failed["status_reason"], failed["exit_code"]) == ("failed", "storage_failed", 0)
        assert "object store" in failed["error_message"]
        assert [each["path"] for each in failed["artifacts"]] == ["made.txt"]
        assert api.run(session, HELLO)["status"] == "completed"  # which has no files to keep
        another = api.running_session()
        assert api.delete(f"/sessions/{another}").status_code == 502
        assert api.session(another)["status"] == "terminated"
        health = api.get("/health/detailed")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        storage = health.json()["dependencies"]["storage"]
        assert (storage["status"], storage["kind"]) == ("unhealthy", "s3")
        assert storage["detail"]
        assert api.get("/health").json()["status"] == "healthy"
    assert api.get("/health/detailed").status_code == 200
    assert api.delete(f"/sessions/{another}").status_code == 204
    assert api.put(f"{url}/after.txt", content=b"after").status_code == 200
    assert api.run(session, "echo again > again.txt", language="shell")["status"] == "completed"
    there = {key.removeprefix(f"{prefix}/") for key in object_store.keys(bucket, prefix)}
    assert there == {"before.txt", "after.txt", "made.txt", "again.txt"}


def test_without_the_database_requests_are_refused_and_what_ran_is_kept(
    api: Api, session: str, postgres: PostgresServer
) -> None:
    running = api.submit(session, "echo up; while ! [ -e go ]; do sleep 0.02; done; echo went", language="shell")
    api.said(running, "up")
    postgres.stop()
    try:
        for answer in (
            api.get(f"/sessions/{session}"),
            api.post("/sessions", json={"template_id": "python"}),
            api.post(f"/executions/sessions/{session}/execute-sync", json={"code": HELLO}),
            api.put(f"/sessions/{session}/files/go", content=b""),
        ):
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert int(answer.headers["Retry-After"]) > 0
        health = api.get("/health/detailed")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        assert health.json()["dependencies"]["database"]["status"] == "unhealthy"
        assert health.json()["dependencies"]["database"]["dialect"] == "postgresql"
        assert api.get("/health").json()["status"] == "healthy"
    finally:
        postgres.start()
    assert eventually(lambda: api.get("/health/detailed").status_code, lambda seen: seen == 200)
    assert api.put(f"/sessions/{session}/files/go", content=b"").status_code == 200
    found = api.execution_when(running)
    assert (found["status"], found["stdout"]) == ("completed", "up\nwent\n")
    assert api.run(session, HELLO)["status"] == "completed"
