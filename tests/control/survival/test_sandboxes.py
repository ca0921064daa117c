"""Sandboxes that end though nobody asked for it."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.control.serving import Api, Server, eventually
from tests.control.survival import family

EAT = """\
def handler(event):
    print('up', flush=True)
    kept = []
    while True:
        kept.append(bytearray(8 * 1024**2))
"""


def victim(which: str, process: psutil.Process) -> psutil.Process:
    """Which process of a session's sandbox is killed."""
    if which == "agent":
        return family.agent(process)
    inner, *outer = family.first_processes(process)
    return inner if which == "first process" else outer[0]


@pytest.mark.parametrize("which", ["agent", "first process", "wall"])
def test_a_stateless_session_whose_sandbox_is_killed_gets_another_one_over_its_files(
    which: str, hurt: Server, hurt_api: Api
) -> None:
    session_id = hurt_api.running_session()
    container = hurt_api.session(session_id)["container_id"]
    hurt_api.put(f"/sessions/{session_id}/files/kept.txt", content=b"kept")
    execution_id, process = family.sleeper(hurt, hurt_api, session_id)
    hurt_api.said(execution_id, "up")
    victim(which, process).kill()
    ended = hurt_api.execution_when(execution_id)
    assert (ended["status"], ended["status_reason"]) == ("crashed", "sandbox_ended")
    assert "SIGKILL" in ended["error_message"]
    assert ended["stdout"] == "up\n"
    seen = eventually(
        lambda: hurt_api.session(session_id),
        lambda seen: seen["status"] == "running" and seen["container_id"] != container,
    )
    assert seen["status_reason"] == "sandbox_ended"
    assert "another sandbox" in seen["status_detail"]
    assert hurt_api.run(session_id, "cat kept.txt", language="shell")["stdout"] == "kept"


def test_a_session_whose_sandbox_is_killed_while_packages_are_installed_still_gets_another_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that never answers
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        with (
            Server(tmp_path / "state", console=False, rate_limit="100000/minute", package_index=index) as server,
            ThreadPoolExecutor(1) as pool,
        ):
            api = server.api()
            session_id = api.running_session()
            container = api.session(session_id)["container_id"]
            _, process = family.sleeper(server, api, session_id)
            body = {"dependencies": [{"name": "never"}], "install_timeout": 60}
            installing = pool.submit(api.post, f"/sessions/{session_id}/dependencies/install", json=body)
            eventually(lambda: api.session(session_id)["dependency_install_status"], lambda seen: seen == "installing")
            family.agent(process).kill()
            seen = eventually(
                lambda: api.session(session_id),
                lambda seen: seen["status"] != "creating" and seen["container_id"] != container,
            )
            assert (seen["status"], seen["dependency_install_status"]) == ("running", "installing"), seen
            assert api.run(session_id, "echo on", language="shell")["stdout"] == "on\n"
            assert api.delete(f"/sessions/{session_id}").status_code == 204
            assert installing.result().status_code in (404, 409)


@pytest.mark.parametrize("which", ["agent", "first process", "wall"])
def test_a_stateful_session_whose_sandbox_is_killed_says_that_its_variables_are_lost(
    which: str, hurt: Server, hurt_api: Api
) -> None:
    session_id = hurt_api.running_session(mode="stateful")
    hurt_api.run(session_id, "open('kept.txt', 'w').write('kept')")
    execution_id, process = family.sleeper(hurt, hurt_api, session_id)
    waiting = hurt_api.submit(session_id, "import time; time.sleep(600)", timeout=900)
    victim(which, process).kill()
    seen = hurt_api.session_when(session_id, "failed")
    assert seen["status_reason"] == "sandbox_ended"
    assert "variables" in seen["status_detail"]
    for each in (execution_id, waiting):
        assert hurt_api.execution_when(each)["status"] == "crashed"
    assert hurt_api.get(f"/sessions/{session_id}/files/kept.txt").content == b"kept"
    refused = hurt_api.post(f"/executions/sessions/{session_id}/execute", json={"code": "1"})
    assert refused.status_code == 409
    assert "variables" in refused.json()["detail"]


def test_all_sessions_behind_a_wall_that_falls_come_back(hurt: Server, hurt_api: Api) -> None:
    sessions = [hurt_api.running_session() for _ in range(4)]
    slept, process = family.sleeper(hurt, hurt_api, sessions[0])
    _, wall = family.first_processes(process)
    wall.kill()
    assert hurt_api.execution_when(slept)["status"] == "crashed"
    for session_id in [*sessions, hurt_api.new_session()]:
        assert hurt_api.run(session_id, "echo back", language="shell")["stdout"] == "back\n"


def test_sessions_whose_wall_falls_while_they_come_up_still_do(hurt: Server, hurt_api: Api) -> None:
    for turn in range(6):
        witness = hurt_api.running_session()
        _, process = family.sleeper(hurt, hurt_api, witness)
        wall = victim("wall", process)
        with ThreadPoolExecutor(8) as pool:
            made = [pool.submit(hurt_api.new_session) for _ in range(8)]
            time.sleep(turn * 0.02)
            wall.kill()
        for session_id in (*(each.result() for each in made), witness):
            seen = hurt_api.session_when(session_id, "running", "failed")
            assert seen["status"] == "running", seen
            assert hurt_api.delete(f"/sessions/{session_id}").status_code == 204


def test_code_that_kills_its_agent_costs_its_own_session_only(hurt: Server, hurt_api: Api) -> None:
    other, session_id = hurt_api.running_session(), hurt_api.running_session()
    slept, process = family.sleeper(hurt, hurt_api, other)
    killed = hurt_api.run(session_id, "kill -9 -1; kill -9 $PPID; sleep 60", language="shell", timeout=100)
    assert killed["status"] == "crashed"
    assert hurt_api.run(session_id, "echo back", language="shell")["stdout"] == "back\n"
    assert process.is_running()
    assert hurt_api.execution(slept)["status"] == "running"
    hurt_api.delete(f"/sessions/{other}")


def test_code_that_kills_its_agent_each_time_still_ends_with_a_reason(hurt_api: Api) -> None:
    session_id = hurt_api.running_session()
    for _ in range(6):
        answer = hurt_api.post(
            f"/executions/sessions/{session_id}/execute-sync",
            json={"code": "kill -9 $PPID; kill -9 -1; sleep 60", "language": "shell", "timeout": 100},
        )
        if answer.status_code == 409:
            break
        assert answer.json()["status"] == "crashed"
    seen = hurt_api.session_when(session_id, "running", "failed")
    assert seen["status_reason"] == "sandbox_ended"


def test_code_that_takes_all_the_memory_is_ended_and_the_session_goes_on(hurt_api: Api) -> None:
    session_id = hurt_api.running_session(memory="256Mi")
    ended = hurt_api.run(session_id, EAT, timeout=120)
    assert ended["status_reason"] == "out_of_memory" or ended["error_name"] == "MemoryError", ended
    assert ended["stdout"] == "up\n"
    assert hurt_api.run(session_id, "echo back", language="shell")["stdout"] == "back\n"
