"""Everything of the contract once, where its records are in PostgreSQL and its files in an object store."""

from __future__ import annotations

import hashlib
import os
import re

import httpx

from tests.control.object_store import ObjectStore
from tests.control.serving import HELLO, Api, Server

MADE = """
import os
def handler(event):
    os.makedirs('out', exist_ok=True)
    with open('out/made.txt', 'w') as file:
        file.write('made by code')
    os.remove('given.txt')
    return open('kept.txt').read()
"""
DENIED = """
import http.client
def handler(event):
    found = []
    for name in event:
        line = http.client.HTTPConnection('127.0.0.1', 3128, timeout=10)
        line.request('GET', f'http://{name}/')
        found.append(line.getresponse().status)
    return found
"""


def test_a_template_sessions_of_both_modes_and_what_they_run(api: Api) -> None:
    body = {"id": "small", "name": "small", "default_memory_mb": 256, "default_env_vars": {"WHO": "small"}}
    assert api.post("/templates", json={**body, "warm": False}).status_code == 201
    stateless, stateful = api.running_session("small"), api.running_session(mode="stateful")
    found = api.run(stateless, HELLO, event={"n": 1})
    assert (found["status"], found["stdout"]) == ("completed", "hello\n")
    assert found["return_value"] == {"message": "Hello, World!", "event": {"n": 1}}
    assert api.run(stateless, "echo $WHO", language="shell")["stdout"] == "small\n"
    assert api.run(stateful, "numbers = list(range(5))")["status"] == "completed"
    assert api.run(stateful, "print(sum(numbers))")["stdout"] == "10\n"
    for number in range(10, 20):
        api.submit(stateful, f"numbers.append({number})")
    assert api.run(stateful, "print(*numbers[5:])")["stdout"] == "10 11 12 13 14 15 16 17 18 19\n"
    failed = api.run(stateful, "1 / 0")
    assert (failed["status"], failed["error_name"]) == ("failed", "ZeroDivisionError")
    events = api.get(f"/executions/{failed['id']}/events").json()
    assert [each["kind"] for each in events["items"]][-2:] == ["error", "end"]
    assert events["is_final"] is True
    assert api.get(f"/executions/{failed['id']}/stream").text.count("event: end") == 1
    page = api.get("/sessions", params={"template_id": "small"}).json()
    assert [each["id"] for each in page["items"]] == [stateless]
    key = {"Idempotency-Key": "once"}
    url, once = f"/executions/sessions/{stateless}/execute-sync", {"code": "echo $RANDOM", "language": "shell"}
    assert api.post(url, json=once, headers=key).json() == api.post(url, json=once, headers=key).json()
    for session_id in (stateless, stateful):
        assert api.delete(f"/sessions/{session_id}").status_code == 204
    assert api.delete("/templates/small").status_code == 200


def test_files_go_to_the_object_store_and_come_from_it(
    api: Api, session: str, object_store: ObjectStore, bucket: str
) -> None:
    prefix, url = f"prod/sessions/{session}/files", f"/sessions/{session}/files"
    assert api.put(f"{url}/data/small.txt", content=b"0123456789").status_code == 200
    assert object_store.content(bucket, f"{prefix}/data/small.txt") == b"0123456789"
    assert api.get(f"{url}/data/small.txt").content == b"0123456789"
    part = api.get(f"{url}/data/small.txt", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    said = api.get(f"{url}/data/small.txt", params={"presign": True}).json()
    assert httpx.get(said["presigned_url"], trust_env=False).content == b"0123456789"

    large = os.urandom(1024**2) * 11
    form = api.post(f"{url}/upload", params={"path": "large.bin"}, files={"file": large})
    assert form.json()["checksum"] == f"sha256:{hashlib.sha256(large).hexdigest()}"
    said = api.get(f"{url}/large.bin").json()
    assert said["size"] == len(large)
    there = httpx.get(said["presigned_url"], trust_env=False)
    assert (there.status_code, there.content == large) == (200, True)
    assert "attachment" in there.headers["content-disposition"]
    assert api.get(f"{url}/large.bin", params={"presign": False}).content == large
    tail = api.get(f"{url}/large.bin", headers={"Range": "bytes=-3"})
    assert (tail.status_code, tail.content) == (206, large[-3:])

    assert api.delete(f"{url}/large.bin").status_code == 200
    assert object_store.keys(bucket, prefix) == [f"{prefix}/data/small.txt"]


def test_what_code_has_made_has_its_copy_when_the_execution_is_reported_finished(
    api: Api, object_store: ObjectStore, bucket: str
) -> None:
    session = api.running_session()
    prefix = f"prod/sessions/{session}/"
    for name in ("given.txt", "kept.txt"):
        assert api.put(f"/sessions/{session}/files/{name}", content=name.encode()).status_code == 200
    found = api.run(session, MADE)
    there = object_store.keys(bucket, prefix)
    assert (found["status"], found["return_value"]) == ("completed", "kept.txt")
    assert [each["path"] for each in found["artifacts"]] == ["out/made.txt"]
    assert there == [f"{prefix}files/kept.txt", f"{prefix}files/out/made.txt"]
    assert object_store.content(bucket, there[1]) == b"made by code"
    said = api.get(f"/sessions/{session}/files/out/made.txt", params={"presign": True}).json()
    assert httpx.get(said["presigned_url"], trust_env=False).content == b"made by code"

    assert api.post(f"/sessions/{session}/terminate").json()["status"] == "terminated"
    assert object_store.keys(bucket, prefix) == there
    assert api.delete(f"/sessions/{session}").status_code == 204
    assert object_store.keys(bucket, prefix) == []


def test_the_health_names_what_it_has_looked_at(api: Api) -> None:
    answer = api.get("/health/detailed")
    needs = answer.json()["dependencies"]
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
    assert (needs["database"]["status"], needs["database"]["dialect"]) == ("healthy", "postgresql")
    assert (needs["storage"]["status"], needs["storage"]["kind"]) == ("healthy", "s3")
    assert needs["storage"]["seconds"] > 0


def test_metrics_count_bytes_sessions_and_hosts_that_were_denied(first: Server, api: Api) -> None:
    rules = {"network": {"allowed_domains": ["a.invalid"]}}
    assert (
        api.post("/templates", json={"id": "reaching", "name": "reaching", "warm": False, **rules}).status_code == 201
    )
    before = metrics(first, api)
    session = api.running_session("reaching", **rules)
    api.put(f"/sessions/{session}/files/ten.txt", content=b"0123456789")
    api.get(f"/sessions/{session}/files/ten.txt", headers={"Range": "bytes=0-3"})
    assert api.run(session, DENIED, event=["b.invalid", "c.invalid", "b.invalid"])["return_value"] == [403, 403, 403]
    during = metrics(first, api)
    assert during["ipybox_uploaded_bytes_total"] - before["ipybox_uploaded_bytes_total"] == 10
    assert during["ipybox_downloaded_bytes_total"] - before["ipybox_downloaded_bytes_total"] == 4
    assert during["ipybox_denied_hosts_total"] - before["ipybox_denied_hosts_total"] == 3
    running = 'ipybox_sessions{status="running"}'
    assert during[running] - before[running] == 1
    assert api.session(session)["denied_hosts"] == {"b.invalid": 2, "c.invalid": 1}
    api.post(f"/sessions/{session}/terminate")
    after = metrics(first, api)
    assert after[running] == before[running]
    assert after["ipybox_denied_hosts_total"] == during["ipybox_denied_hosts_total"]
    assert api.session(session)["denied_hosts"] == {"b.invalid": 2, "c.invalid": 1}
    assert api.delete(f"/sessions/{session}").status_code == 204
    assert api.delete("/templates/reaching").status_code == 200


def metrics(server: Server, api: Api) -> dict[str, float]:
    """All that it measures, by name and labels."""
    text = api.get(f"{server.url}/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(ipybox_[^ ]+) (\S+)$", text, re.MULTILINE)}
