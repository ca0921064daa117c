"""A server that is asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.control.serving import ENVIRONMENT, HANG, IPYBOX, Api, Server, eventually
from tests.control.survival import family

ONCE = "printf x >> count; cat count"
UNTIL_TOLD = "echo up; while [ ! -e go ]; do sleep 0.02; done; echo went"


def is_draining(server: Server) -> Callable[[], bool]:
    """Whether a server says so, or lets nobody in any more."""

    def look() -> bool:
        try:
            return bool(httpx.get(f"{server.url}/api/v1/health", trust_env=False).json()["status"] == "draining")
        except httpx.TransportError:
            return True

    return look


def test_what_waits_is_kept_and_runs_once_after_the_restart(mine: Server) -> None:
    api = mine.api()
    sessions = [api.new_session() for _ in range(12)]
    made = {each: api.submit(each, ONCE, language="shell") for each in sessions}
    mine.stop()
    mine.start()
    api = mine.api()
    for session_id, execution_id in made.items():
        ended = api.execution_when(execution_id)
        assert (ended["status"], ended["stdout"]) == ("completed", "x"), ended
        assert api.session_when(session_id, "running", "failed")["status"] == "running"


def test_who_waits_for_a_result_gets_it_or_is_told_to_come_back(mine: Server) -> None:
    sessions = [mine.api().new_session() for _ in range(8)]
    url = f"{mine.url}/api/v1/executions/sessions"

    def wait(session_id: str) -> httpx.Response | None:
        try:
            return httpx.post(
                f"{url}/{session_id}/execute-sync",
                json={"code": ONCE, "language": "shell"},
                headers={"Idempotency-Key": session_id},
                timeout=HANG,
                trust_env=False,
            )
        except httpx.ConnectError:
            return None

    with ThreadPoolExecutor(len(sessions)) as pool:
        answers = pool.map(wait, sessions)
        api = mine.api()
        eventually(lambda: api.get(f"/executions/sessions/{sessions[0]}/executions").json()["total"])
        mine.stop()
        for answer in answers:
            if answer is not None and answer.status_code != 200:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
            elif answer is not None:
                assert answer.json()["status"] == "completed", answer.text
    mine.start()
    api = mine.api()
    for session_id in sessions:
        again = api.post(
            f"/executions/sessions/{session_id}/execute-sync",
            json={"code": ONCE, "language": "shell"},
            headers={"Idempotency-Key": session_id},
        )
        assert again.status_code == 200, again.text
        assert (again.json()["status"], again.json()["stdout"]) == ("completed", "x")


def test_while_it_drains_nothing_new_is_taken_and_what_runs_comes_to_its_end(mine: Server) -> None:
    api = mine.api()
    session_id = api.running_session()
    execution_id = api.submit(session_id, UNTIL_TOLD, language="shell", timeout=100)
    api.said(execution_id, "up")
    kept = [Api(mine.url) for _ in range(3)]
    with kept[0].stream("GET", f"/executions/{execution_id}/stream") as stream:
        lines = stream.iter_lines()
        next(lines)
        mine.ask_to_stop()
        eventually(is_draining(mine))
        try:
            refused = kept[1].post("/sessions", json={"template_id": "python"})
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
        except httpx.TransportError:
            pass  # refused as a whole
        for _ in lines:
            pass  # it comes to an end, though the execution does not
    (mine.state_dir / "sandboxes" / "sessions" / session_id / "files" / "go").touch()
    assert mine.wait() == 0
    for each in kept:
        each.close()
    mine.start()
    ended = mine.api().execution(execution_id)
    assert (ended["status"], ended["stdout"]) == ("completed", "up\nwent\n")


@pytest.mark.parametrize("mine", [{"drain_timeout": 600}], indirect=True)
def test_a_second_signal_waits_for_nothing(mine: Server) -> None:
    api = mine.api()
    session_id = api.running_session()
    execution_id = api.submit(session_id, "echo up; sleep 600", language="shell", timeout=900)
    api.said(execution_id, "up")
    everything = family.of(mine)
    mine.ask_to_stop()
    eventually(is_draining(mine))
    mine.ask_to_stop()
    assert mine.wait() == 0
    family.gone(everything)
    mine.start()
    ended = mine.api().execution(execution_id)
    assert (ended["status"], ended["status_reason"], ended["stdout"]) == ("crashed", "server_stopped", "up\n")


@pytest.mark.parametrize("mine", [{"drain_timeout": 0.3}], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_waits_for_what_is_ended_at_last_is_answered(number: signal.Signals, mine: Server) -> None:
    session_id = mine.api().running_session()
    url = f"{mine.url}/api/v1/executions/sessions/{session_id}/execute-sync"
    body = {"code": "sleep 600", "language": "shell", "timeout": 900}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, url, json=body, timeout=HANG, trust_env=False)
        api = mine.api()
        eventually(lambda: api.get("/health/detailed").json()["dependencies"]["runtime_nodes"][0]["executions"])
        os.kill(mine.pid, number)
        found = answer.result()
    assert mine.wait() == 0
    assert found.status_code == 200, found.text
    assert (found.json()["status"], found.json()["status_reason"]) == ("crashed", "server_stopped")


def test_a_server_that_is_asked_to_stop_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [*IPYBOX, "serve", "--port", "0", "--state-dir", str(tmp_path / "state")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=ENVIRONMENT,
        )
    try:
        eventually(lambda: (tmp_path / "state" / "ipybox.db").exists())
        process.terminate()
        assert process.wait(HANG) == 0, log.read_text()
    finally:
        process.kill()
        process.communicate()
    with Server(tmp_path / "state", console=False) as server:
        server.api().running_session()
