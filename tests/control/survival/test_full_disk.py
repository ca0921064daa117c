"""A server on a disk that is full: a small one, mounted where nobody else sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.serving import Api, Server, eventually

MIB = 1024 * 1024
SMALL_DISK = 'mount -t tmpfs -o size=32m,mode=700 tmpfs "$0" && exec "$@"'
FILL = """\
import os, time
def handler(event):
    with open('filler', 'wb', 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            print(error.strerror, flush=True)
    return 'filled'
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    state = tmp_path / "state"
    state.mkdir(0o700)
    through = ("unshare", "-m", "sh", "-c", SMALL_DISK, str(state))
    with Server(state, through=through, console=False, min_free_bytes=2 * MIB, drain_timeout=0.2) as server:
        yield server
    assert '"a request failed"' not in server.log, server.log[-4000:]
    assert "never retrieved" not in server.log, server.log[-4000:]


def free(server: Server) -> int:
    """Bytes that are left."""
    disk = os.statvfs(f"/proc/{server.pid}/root{server.state_dir}")
    return disk.f_bavail * disk.f_frsize


def test_on_a_full_disk_what_can_not_be_kept_is_refused_and_all_goes_on_when_there_is_room(small: Server) -> None:
    api = small.api()
    session_id, stateful = api.running_session(), api.running_session(mode="stateful")
    assert api.put(f"/sessions/{session_id}/files/kept", content=b"kept" * 1000).status_code == 200
    assert api.run(stateful, "x = 41")["status"] == "completed"
    filling = api.submit(session_id, FILL, timeout=60)
    eventually(lambda: free(small), lambda left: left < 4096)

    for _ in range(3):
        assert api.put(f"/sessions/{session_id}/files/more", content=bytes(MIB)).status_code == 507
        created = api.post("/sessions", json={"template_id": "python"})
        assert created.status_code == 507, created.text
        taken = api.post(f"/executions/sessions/{stateful}/execute", json={"code": "x + 1"})
        assert taken.status_code in (201, 507), taken.text
    assert api.get(f"/sessions/{session_id}/files/kept").content == b"kept" * 1000
    health = api.get("/health/detailed")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert "full" in health.text

    assert api.delete(f"/sessions/{session_id}/files/filler").status_code == 200
    ended = api.execution_when(filling)
    assert ended["status"] in ("completed", "failed"), ended
    assert ended["status"] == "completed" or ended["status_reason"] in ("disk_full", "raised"), ended
    assert works(api, session_id)
    assert api.run(stateful, "print(x + 1)")["stdout"] == "42\n"
    assert works(api, api.running_session())
    assert api.put(f"/sessions/{session_id}/files/more", content=bytes(MIB)).status_code == 200
    assert api.get("/health/detailed").json()["status"] == "healthy"


def test_sessions_come_back_though_the_disk_is_full_by_then(mine: Server) -> None:
    session_id = mine.api().running_session()
    mine.api().put(f"/sessions/{session_id}/files/kept", content=b"kept")
    mine.kill()
    mine.start(min_free_bytes=2**60)
    api = mine.api()
    assert api.session_when(session_id, "running", "failed")["status"] == "running"
    assert api.run(session_id, "cat kept", language="shell")["stdout"] == "kept"
    assert api.post("/sessions", json={"template_id": "python"}).status_code == 507
    assert api.put(f"/sessions/{session_id}/files/more", content=b"more").status_code == 507


@pytest.mark.soak
def test_a_server_on_a_full_disk_stops_in_order(small: Server) -> None:
    api = small.api()
    session_id = api.running_session()
    api.submit(session_id, FILL, timeout=60)
    eventually(lambda: free(small), lambda left: left < 4096)
    small.stop()


def works(api: Api, session_id: str) -> bool:
    """Whether code runs in a session, and what it writes is kept."""
    found = api.run(session_id, "echo new > made; cat made", language="shell")
    return bool(found["status"] == "completed" and found["stdout"] == "new\n" and found["artifacts"])
