"""SIGKILL of the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.control.serving import ENVIRONMENT, HANG, Server, eventually
from tests.control.survival import family

ROOT = Path(__file__).resolve().parents[3]
SEED = 7


def survive(*options: object, command: tuple[str, ...] = ()) -> str:
    """What the stress program says, which has to be happy."""
    done = subprocess.run(
        [*command, sys.executable, "-m", "benchmarks.survival", *map(str, options)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def test_a_server_that_is_killed_under_load_keeps_its_word() -> None:
    """A few times here; ``python -m benchmarks.survival --kills 200`` is the same for longer."""
    assert "nothing acknowledged was lost" in survive("--kills", 5, "--seed", SEED)


def test_a_server_of_a_plain_user_that_is_killed_under_load_keeps_its_word() -> None:
    if os.geteuid() != 0:
        pytest.skip("this is a plain user already")
    plain = (sys.executable, "-m", "tests.plain_user")
    assert "nothing acknowledged was lost" in survive("--kills", 2, "--seed", SEED, command=plain)


def test_what_ran_is_lost_with_its_reason_and_what_it_wrote_is_kept(mine: Server) -> None:
    api = mine.api()
    stateless, stateful = api.running_session(), api.running_session(mode="stateful")
    api.run(stateful, "x = 1")
    ran = [family.sleeper(mine, api, each)[0] for each in (stateless, stateful)]
    behind = api.submit(stateful, "x + 1")
    for each in ran:
        api.said(each, "up")
    api.put(f"/sessions/{stateless}/files/kept.txt", content=b"kept")
    everything = family.of(mine)
    mine.kill()
    family.gone(everything)
    mine.start()
    api = mine.api()
    for each in ran:
        ended = api.execution(each)
        assert (ended["status"], ended["status_reason"], ended["stdout"]) == ("crashed", "server_restarted", "up\n")
        kinds = [event["kind"] for event in api.get(f"/executions/{each}/events").json()["items"]]
        assert kinds == ["stdout", "end"]
    assert api.execution_when(behind)["status"] in ("crashed", "completed")
    lost = api.session(stateful)
    assert (lost["status"], lost["status_reason"]) == ("failed", "server_restarted")
    assert "variables" in lost["status_detail"]
    resumed = api.session_when(stateless, "running")
    assert resumed["status_reason"] == "server_restarted"
    assert "another sandbox" in resumed["status_detail"]
    assert api.run(stateless, "cat kept.txt", language="shell")["stdout"] == "kept"


def test_who_asks_again_with_the_same_key_after_a_kill_gets_what_was_made(mine: Server) -> None:
    api = mine.api()
    keyed = {"Idempotency-Key": "one"}
    session_id = api.post("/sessions", json={"template_id": "python"}, headers=keyed).json()["id"]
    code = {"code": "printf x >> count; cat count", "language": "shell"}
    execution_id = api.post(f"/executions/sessions/{session_id}/execute", json=code, headers={"Idempotency-Key": "two"})
    mine.kill()
    mine.start()
    api = mine.api()
    assert api.post("/sessions", json={"template_id": "python"}, headers=keyed).json()["id"] == session_id
    again = api.post(f"/executions/sessions/{session_id}/execute", json=code, headers={"Idempotency-Key": "two"})
    assert again.json() == execution_id.json()
    ended = api.execution_when(again.json()["execution_id"])
    assert ended["status"] in ("completed", "crashed")
    assert ended["status"] == "crashed" or ended["stdout"] == "x"
    assert api.get("/sessions").json()["total"] == 1


def test_a_server_that_is_frozen_and_killed_leaves_no_process(mine: Server) -> None:
    api = mine.api()
    for each in [api.running_session() for _ in range(3)]:
        family.sleeper(mine, api, each)
    everything = family.of(mine)
    os.kill(mine.pid, signal.SIGSTOP)
    mine.kill()
    family.gone(everything, HANG)
    mine.start()
    eventually(lambda: mine.api().get("/health/detailed").json()["status"] == "healthy")
