"""The same answers where PostgreSQL and an object store are behind them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.control.contract.test_events import expected, followed, text_of
from tests.control.object_store import CREDENTIALS, SECRET, ObjectStore, make_bucket
from tests.control.postgres_server import PostgresServer
from tests.control.serving import HELLO, Api, Server

ODD = "\0\x1a Grüße 🎉 \u2028 \\u0000 '; --"


@pytest.fixture(scope="module")
def large(
    postgres: PostgresServer, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that keeps nothing that counts on its own disk."""
    make_bucket(object_store.endpoint, "contract")
    name = postgres.create()
    settings: dict[str, Any] = {
        "database_url": postgres.url(name),
        "workspace_url": "s3://contract/some/where",
        "s3_endpoint": object_store.endpoint,
        "s3_allow_http": True,
        "max_upload_bytes": 20 * 1024**2,
    }
    state = tmp_path_factory.mktemp("large") / "state"
    with Server(state, environment=CREDENTIALS, console=False, drain_timeout=0.5, **settings) as server:
        yield server
        server.stop()
        assert SECRET not in server.log
        assert "Traceback" not in server.log, server.log
    postgres.drop(name)


@pytest.fixture(scope="module")
def large_api(large: Server) -> Api:
    return large.api()


def test_the_health_names_what_is_there(large_api: Api) -> None:
    found = large_api.get("/health/detailed").json()
    assert found["status"] == "healthy", found
    assert found["dependencies"]["database"]["dialect"] == "postgresql"
    assert (found["dependencies"]["storage"]["kind"], found["dependencies"]["storage"]["status"]) == ("s3", "healthy")


def test_text_of_all_kinds_is_kept(large_api: Api) -> None:
    name = f"t-{uuid4().hex[:8]}"
    made = large_api.post("/templates", json={"id": name, "name": f"{name}{ODD}", "warm": False})
    assert made.status_code == 201
    assert large_api.get(f"/templates/{name}").json() == made.json()
    session_id = large_api.running_session(name, tags={"odd": ODD}, event={ODD: ODD})
    assert large_api.session(session_id)["event"] == {ODD: ODD}
    found = large_api.run(session_id, f"def handler(event):\n    print({ODD!r})\n    return event", event=[ODD])
    assert (found["stdout"], found["return_value"]) == (f"{ODD}\n", [ODD])
    assert large_api.execution(found["id"]) == found
    listed = large_api.get("/sessions", params={"tag": f"odd:{ODD}"}).json()
    assert [each["id"] for each in listed["items"]] == [session_id]
    assert large_api.get("/sessions", params={"template_id": "\0"}).json()["total"] == 0
    assert large_api.get("/audit", params={"target": "\0"}).json()["items"] == []
    assert large_api.get("/executions/%00").status_code in (400, 404)
    large_api.delete(f"/sessions/{session_id}")


def test_pages_streams_and_keys_are_the_same(large: Server, large_api: Api) -> None:
    mark = uuid4().hex
    headers = {"Idempotency-Key": mark}
    body: dict[str, Any] = {"template_id": "python", "tags": {"mark": mark}}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: large_api.post("/sessions", json=body, headers=headers), range(4)))
    made = {each.json()["id"] for each in answers if each.status_code == 201}
    assert len(made) == 1
    more = [large_api.new_session(tags={"mark": mark}) for _ in range(3)]
    seen: list[str] = []
    params: dict[str, Any] = {"tag": f"mark:{mark}", "limit": 3}
    while True:
        page = large_api.get("/sessions", params=params).json()
        assert page["total"] == 4
        seen += [each["id"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == [*more[::-1], *made]
    code = "import time\ndef handler(event):\n    for n in range(30): print('line', n, flush=True); time.sleep(0.005)"
    execution_id = large_api.submit(more[0], code)
    first = followed(large_api, execution_id, stop=2)
    rest = followed(large.api(), execution_id, last_id=first[-1][0])
    assert text_of([*first, *rest]) == expected(30)
    secret = large_api.post("/keys", json={"name": "x", "owner": "x"}).json()["secret"]
    assert large.api(secret).get(f"/sessions/{more[0]}").status_code == 404
    assert large_api.get("/audit", params={"action": "key.create"}).json()["items"]
    for each in seen:
        assert large_api.delete(f"/sessions/{each}").status_code == 204


def test_a_large_file_is_fetched_from_the_object_store(large_api: Api) -> None:
    session_id = large_api.running_session()
    content = os.urandom(1024**2) * 11
    url = f"/sessions/{session_id}/files/large.bin"
    assert large_api.put(url, content=content).status_code == 200
    found = large_api.get(url).json()
    assert set(found) == {"session_id", "file_path", "presigned_url", "size"}
    assert (found["file_path"], found["size"]) == ("large.bin", len(content))
    assert SECRET not in found["presigned_url"]
    with httpx.Client(trust_env=False) as stranger:
        assert stranger.get(found["presigned_url"]).content == content
    assert large_api.get(url, params={"presign": False}).content == content
    assert large_api.get(url, headers={"Range": "bytes=5-9"}).content == content[5:10]
    assert large_api.put(f"/sessions/{session_id}/files/small.txt", content=b"small").status_code == 200
    assert large_api.get(f"/sessions/{session_id}/files/small.txt").text == "small"
    assert large_api.get(f"/sessions/{session_id}/files/small.txt", params={"presign": True}).json()["size"] == 5
    large_api.delete(f"/sessions/{session_id}")


def test_files_outlive_the_disk(large: Server) -> None:
    """A session that is terminated, and whose directory is lost, has its files all the same."""
    api = large.api()
    session_id = api.running_session()
    code = "def handler(event): open('result.txt', 'w').write('computed')"
    assert [each["path"] for each in api.run(session_id, code)["artifacts"]] == ["result.txt"]
    large.stop()
    _remove(large.state_dir / "sandboxes" / "sessions" / session_id)
    large.start()
    api = large.api()
    assert api.session_when(session_id, "running", "failed")["status"] == "running"
    assert api.get(f"/sessions/{session_id}/files/result.txt").text == "computed"
    assert api.run(session_id, "def handler(event): return open('result.txt').read()")["return_value"] == "computed"
    assert api.run(session_id, HELLO)["status"] == "completed"
    assert api.delete(f"/sessions/{session_id}").status_code == 204


def _remove(directory: Path) -> None:
    shutil.rmtree(directory)
    assert not directory.exists()
