"""A server that is asked to stop, and comes back."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.control.serving import ENVIRONMENT, HELLO, IPYBOX, Server

FOREVER = "import time\ndef handler(event):\n    print('up', flush=True)\n    time.sleep(600)"


def test_a_server_that_comes_back_has_everything_but_what_it_says_is_lost(tmp_path: Path) -> None:
    with Server(tmp_path / "state", console=False, drain_timeout=0.2) as server:
        api = server.api()
        session_id, stateful = api.running_session(), api.running_session(mode="stateful")
        assert api.put(f"/sessions/{session_id}/files/kept.txt", content=b"kept").status_code == 200
        execution_id = api.submit(session_id, FOREVER, timeout=900)
        api.said(execution_id, "up")
        before = api.session(session_id)
        _refused(server)
        server.stop()

        server.start()
        api = server.api()
        lost = api.execution(execution_id)
        assert (lost["status"], lost["status_reason"], lost["stdout"]) == ("crashed", "server_stopped", "up\n")
        events = api.get(f"/executions/{execution_id}/events").json()
        assert events["is_final"] is True
        assert [each["kind"] for each in events["items"]] == ["stdout", "end"]
        after = api.session_when(session_id, "running", "failed")
        assert after["container_id"] != before["container_id"]
        assert (after["status"], after["epoch"]) == ("running", 2)
        assert api.run(session_id, "def handler(e): return open('kept.txt').read()")["return_value"] == "kept"
        gone = api.session(stateful)
        assert (gone["status"], gone["status_reason"]) == ("failed", "server_stopped")
        assert api.run(session_id, HELLO)["status"] == "completed"
        server.stop()
        assert "Traceback" not in server.log, server.log


def _refused(server: Server) -> None:
    """A second server over the same directory is not started."""
    command = [*IPYBOX, "serve", "--port", "0", "--state-dir", str(server.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 125
    assert "another server" in done.stderr
    assert server.api().get("/health").status_code == 200
