"""Sessions whose time is over."""

from __future__ import annotations

import os

import pytest

from tests.control.serving import Server, eventually


@pytest.mark.parametrize("mine", [{"max_lifetime": 3}], indirect=True)
def test_a_session_that_has_lived_as_long_as_it_may_ends_though_it_is_used(mine: Server) -> None:
    api = mine.api()
    sessions = [api.running_session(mode=mode, timeout=600) for mode in ("stateless", "stateful")]
    running = [api.submit(each, "echo up; sleep 600", language="shell", timeout=900) for each in sessions]
    for session_id, execution_id in zip(sessions, running, strict=True):
        seen = api.session_when(session_id, "timeout", "failed")
        assert (seen["status"], seen["status_reason"]) == ("timeout", "lifetime")
        ended = api.execution_when(execution_id)
        assert (ended["status"], ended["status_reason"], ended["stdout"]) == ("crashed", "session_ended", "up\n")
    assert api.get("/health/detailed").json()["dependencies"]["runtime_nodes"][0]["sessions"] == 0


@pytest.mark.parametrize("mine", [{"keep_ended_sessions": 0}], indirect=True)
def test_many_sessions_that_expire_together_leave_no_sandbox(mine: Server) -> None:
    api = mine.api()
    sessions = [api.running_session(timeout=1) for _ in range(20)]
    for session_id in sessions:
        seen = api.session_when(session_id, "timeout", "failed")
        assert (seen["status"], seen["status_reason"]) == ("timeout", "idle")
        assert "not used for 1 s" in seen["status_detail"]
    eventually(lambda: api.get("/health/detailed").json()["sessions"] == {"alive": 0, "sandboxes": 0})
    for session_id in sessions:
        assert api.delete(f"/sessions/{session_id}").status_code == 204
    assert os.listdir(mine.state_dir / "sandboxes" / "sessions") == []


def test_a_session_whose_time_ended_while_no_server_ran_ends_with_its_reason(mine: Server) -> None:
    api = mine.api()
    session_id = api.running_session(timeout=1)
    mine.kill()
    mine.start()
    seen = mine.api().session_when(session_id, "timeout", "failed")
    assert (seen["status"], seen["status_reason"]) == ("timeout", "idle")
