"""What no session has any more, and what can't be removed of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.control.serving import Server

BUSY = 'mkdir -p "$0" && mount -t tmpfs tmpfs "$0" && exec "$@"'


def test_a_server_that_can_not_remove_what_is_left_somewhere_still_starts_and_removes_the_rest(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount something")
    state = tmp_path / "state"
    state.mkdir(0o700)
    places = state / "sandboxes" / "sessions"
    (places / "sess_b" / "files").mkdir(parents=True)
    through = ("unshare", "-m", "sh", "-c", BUSY, str(places / "sess_a"))
    with Server(state, through=through, console=False, drain_timeout=0.2) as server:
        api = server.api()
        assert os.listdir(places) == ["sess_a"]
        assert api.post("/health/sync").json()["result"]["removed"] == []
        assert api.run(api.running_session(), "echo on", language="shell")["stdout"] == "on\n"
    assert "files without a session stay" in server.log
