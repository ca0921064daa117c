"""Sessions whose time is over."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

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


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A file with the seconds by which a server's wall clock is off."""
    path = tmp_path / "offset"
    path.write_text("0", encoding="ascii")
    return path


@pytest.fixture
def misled(clock: Path, tmp_path: Path) -> Iterator[Server]:
    """A server whose wall clock can be set."""
    through = (sys.executable, str(Path(__file__).with_name("settable_clock.py")), str(clock))
    with Server(tmp_path / "state", through=through, console=False, rate_limit="100000/minute") as server:
        yield server
    assert "Traceback" not in server.log, server.log


def set_clock(clock: Path, seconds: float) -> None:
    """As somebody who sets it: all at once."""
    new = clock.with_suffix(".new")
    new.write_text(str(seconds), encoding="ascii")
    new.rename(clock)


@pytest.mark.parametrize("jump", [200_000.0, -200_000.0])
def test_a_wall_clock_that_is_set_ends_no_session_and_keeps_none(jump: float, misled: Server, clock: Path) -> None:
    api = misled.api()
    kept, short = api.running_session(timeout=600), api.running_session(timeout=2)
    before = datetime.fromisoformat(api.session(kept)["expires_at"])
    set_clock(clock, jump)
    ended = api.session_when(short, "timeout", "failed")
    assert (ended["status"], ended["status_reason"]) == ("timeout", "idle")
    seen = api.session(kept)
    assert seen["status"] == "running"
    moved = datetime.fromisoformat(seen["expires_at"]) - before
    assert abs(moved.total_seconds() - jump) < 5
    assert api.run(kept, "echo on", language="shell")["stdout"] == "on\n"


def test_a_renewal_after_the_wall_clock_was_set_back_is_kept_though_the_server_is_killed(
    misled: Server, clock: Path
) -> None:
    api = misled.api()
    session_id = api.running_session(timeout=1)
    set_clock(clock, -30)
    granted = api.post(f"/sessions/{session_id}/renew", json={"timeout": 900})
    assert granted.status_code == 200, granted.text
    misled.kill()
    misled.start()
    seen = misled.api().session_when(session_id, "running", "failed", "timeout")
    assert seen["expires_at"] == granted.json()["expires_at"]
