"""A server that is asked to stop, and one that comes back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.control.serving import ENVIRONMENT, HELLO, IPYBOX, Server

WAIT = """
import os, time
def handler(event):
    print('up', flush=True)
    while not os.path.exists('go'): time.sleep(0.02)
    return 1
"""
FOREVER = "import time\ndef handler(event):\n    print('up', flush=True)\n    time.sleep(600)"


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "state", console=False, drain_timeout=20) as server:
        yield server


def test_what_runs_may_end_and_nothing_new_is_taken(mine: Server) -> None:
    api = mine.api()
    session_id = api.running_session()
    execution_id = api.submit(session_id, WAIT, timeout=60)
    api.said(execution_id, "up")
    with api.stream("GET", f"/executions/{execution_id}/stream") as stream:
        lines = stream.iter_lines()
        next(lines)
        mine.ask_to_stop()
        assert "end" not in "".join(lines), "a stream ends, so that the server can"
    with pytest.raises(httpx.TransportError):
        mine.api().post("/sessions", json={"template_id": "python"})
    (mine.state_dir / "sandboxes" / "sessions" / session_id / "files" / "go").touch()
    assert mine.wait() == 0
    mine.start()
    found = mine.api().execution(execution_id)
    assert (found["status"], found["return_value"], found["stdout"]) == ("completed", 1, "up\n")


def test_what_does_not_end_is_ended_and_says_why(mine: Server) -> None:
    mine.stop()
    mine.start(drain_timeout=0.2)
    api = mine.api()
    session_id = api.running_session()
    execution_id = api.submit(session_id, FOREVER, timeout=900)
    api.said(execution_id, "up")
    mine.stop()
    mine.start()
    found = mine.api().execution(execution_id)
    assert (found["status"], found["status_reason"], found["stdout"]) == ("crashed", "server_stopped", "up\n")
    events = mine.api().get(f"/executions/{execution_id}/events").json()
    assert events["is_final"] is True
    assert [each["kind"] for each in events["items"]] == ["stdout", "end"]


def test_a_session_goes_on_with_its_files_and_a_stateful_one_says_that_it_can_not(mine: Server) -> None:
    api = mine.api()
    session_id, stateful = api.running_session(), api.running_session(mode="stateful")
    assert api.put(f"/sessions/{session_id}/files/kept.txt", content=b"kept").status_code == 200
    first = api.session(session_id)["container_id"]
    mine.stop()
    mine.start()
    api = mine.api()
    again = api.session_when(session_id, "running")
    assert again["container_id"] != first
    assert again["epoch"] == 2
    assert api.run(session_id, "def handler(e): return open('kept.txt').read()")["return_value"] == "kept"
    lost = api.session(stateful)
    assert (lost["status"], lost["status_reason"]) == ("failed", "server_stopped")
    assert api.run(session_id, HELLO)["status"] == "completed"


def test_a_second_server_over_the_same_directory_is_refused(mine: Server) -> None:
    command = [*IPYBOX, "serve", "--port", "0", "--state-dir", str(mine.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 125
    assert "another server" in done.stderr
    assert mine.api().get("/health").status_code == 200
