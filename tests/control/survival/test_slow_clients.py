"""Clients that are slow, or gone."""

from __future__ import annotations

import json
import os
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.control.serving import HANG, Api, Server, eventually

LINES = 60_000
FLOOD = f"def handler(event):\n    for i in range({LINES}): print(i, 'x' * 80)\n    return 'done'"


def unchunked(answer: bytes) -> bytes:
    """Its body, as far as it is there: an event may come in several chunks."""
    rest = answer.partition(b"\r\n\r\n")[2]
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(parts)


def connected(server: Server, receive: int | None = None) -> socket.socket:
    """A connection to it."""
    parts = urlsplit(server.url)
    line = socket.socket()
    if receive is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    line.settimeout(HANG)
    line.connect((parts.hostname, parts.port))
    return line


def request(method: str, path: str, body: bytes = b"", length: int | None = None) -> bytes:
    """What is sent for a request."""
    size = len(body) if length is None else length
    head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body


def test_an_upload_that_stops_in_the_middle_leaves_nothing_and_keeps_nobody_waiting(
    hurt: Server, hurt_api: Api
) -> None:
    session_id = hurt_api.running_session()
    place = hurt.state_dir / "sandboxes" / "sessions" / session_id
    hurt_api.put(f"/sessions/{session_id}/files/old", content=b"old")
    lines = [connected(hurt) for _ in range(5)]
    for line in lines:
        line.sendall(request("PUT", f"/sessions/{session_id}/files/old", bytes(100_000), 1_000_000))
    eventually(lambda: len(os.listdir(place / "incoming")) == len(lines))
    assert hurt_api.run(session_id, "cat old", language="shell")["stdout"] == "old"
    for line in lines:
        line.close()
    eventually(lambda: not os.listdir(place / "incoming"))
    assert hurt_api.get(f"/sessions/{session_id}/files/old").content == b"old"


def test_an_upload_that_is_slow_is_whole_in_the_end(hurt: Server, hurt_api: Api) -> None:
    session_id = hurt_api.running_session()
    with connected(hurt) as line:
        line.sendall(request("PUT", f"/sessions/{session_id}/files/slow", b"", 20))
        for number in range(20):
            line.sendall(b"%d" % (number % 10))
            hurt_api.get("/health")
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
    assert hurt_api.get(f"/sessions/{session_id}/files/slow").content == b"01234567890123456789"


def test_who_reads_a_flood_slowly_holds_nothing_up_and_gets_all_of_it(hurt: Server, hurt_api: Api) -> None:
    session_id = hurt_api.running_session()
    execution_id = hurt_api.submit(session_id, FLOOD, timeout=60)
    with connected(hurt, receive=4096) as line:
        line.sendall(request("GET", f"/executions/{execution_id}/stream"))
        assert line.recv(10).startswith(b"HTTP/1.1 2")
        ended = hurt_api.execution_when(execution_id)  # nobody has read more than ten bytes until then
        assert (ended["status"], ended["return_value"]) == ("completed", "done")
        assert len(ended["stdout"].splitlines()) == LINES
        assert hurt_api.run(session_id, "echo other", language="shell")["stdout"] == "other\n"
        taken = bytearray()
        while b"event: end" not in taken[-10_000:]:
            part = line.recv(1 << 20)
            assert part
            taken += part
    text = unchunked(bytes(taken)).decode()
    said = [json.loads(each.partition(":")[2]) for each in text.splitlines() if each.startswith("data:")]
    numbers = [each["seq"] for each in said]
    assert numbers[: ended["events"] - 1] == list(range(1, ended["events"]))
    assert "".join(each["data"]["text"] for each in said if each["kind"] == "stdout") == ended["stdout"]


def test_what_nobody_waits_for_any_more_goes_on(hurt: Server, hurt_api: Api) -> None:
    session_id = hurt_api.running_session()
    body = json.dumps({"code": "echo up; while [ ! -e go ]; do sleep 0.02; done; echo went", "language": "shell"})
    line = connected(hurt)
    line.sendall(request("POST", f"/executions/sessions/{session_id}/execute-sync", body.encode()))
    listed = eventually(lambda: hurt_api.get(f"/executions/sessions/{session_id}/executions").json()["items"])
    hurt_api.said(listed[0]["id"], "up")
    line.close()
    hurt_api.put(f"/sessions/{session_id}/files/go", content=b"")
    ended = hurt_api.execution_when(listed[0]["id"])
    assert (ended["status"], ended["stdout"]) == ("completed", "up\nwent\n")


def test_connections_that_say_nothing_keep_nobody_out(hurt: Server) -> None:
    lines = [connected(hurt) for _ in range(100)]
    try:
        for line in lines[:50]:
            line.sendall(b"GET /api/v1/heal")
        assert httpx.get(f"{hurt.url}/api/v1/health", trust_env=False).status_code == 200
    finally:
        for line in lines:
            line.close()


@pytest.mark.parametrize("mine", [{"drain_timeout": 0.3}], indirect=True)
def test_clients_that_stand_still_do_not_keep_a_server_from_stopping(mine: Server) -> None:
    api = mine.api()
    session_id = api.running_session()
    execution_id = api.submit(session_id, FLOOD, timeout=60)
    api.execution_when(execution_id)
    lines = [connected(mine, receive=4096) for _ in range(3)]
    lines[0].sendall(request("PUT", f"/sessions/{session_id}/files/half", bytes(100_000), 1_000_000))
    lines[1].sendall(request("GET", f"/executions/{execution_id}/stream"))
    lines[2].sendall(b"GET /api/v1/heal")
    incoming = mine.state_dir / "sandboxes" / "sessions" / session_id / "incoming"
    eventually(lambda: os.listdir(incoming))
    assert lines[1].recv(10).startswith(b"HTTP/1.1 2")
    mine.stop()
    for line in lines:
        line.close()
