"""PostgreSQL that ends and comes back under a server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.control.postgres_server import PostgresServer
from tests.control.serving import Api, Server, eventually

TICK = "for i in $(seq 1 150); do echo $i; sleep 0.02; done"


@pytest.mark.parametrize("crash", [False, True])
def test_a_database_that_restarts_loses_nothing_and_stops_nothing(
    crash: bool, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    with Server(tmp_path / "state", console=False, database_url=postgres_url, drain_timeout=5) as server:
        api = server.api()
        assert api.get("/health/detailed").json()["dependencies"]["database"]["dialect"] == "postgresql"
        session_id, stateful = api.running_session(), api.running_session(mode="stateful")
        api.run(stateful, "x = 41")
        ticking = [api.submit(session_id, TICK, language="shell", timeout=60) for _ in range(3)]
        for each in ticking:
            api.said(each, "5")
        with ThreadPoolExecutor(4) as pool:
            busy = [pool.submit(keep_asking, server, number) for number in range(3)]
            postgres.restart(crash=crash)
            made = [each for work in busy for each in work.result()]
        for each in ticking:
            ended = api.execution_when(each)
            assert (ended["status"], ended["stdout"].split()) == ("completed", [str(i) for i in range(1, 151)])
            events = api.get(f"/executions/{each}/events").json()["items"]
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        for each in made:
            assert api.session_when(each, "running", "failed")["status"] == "running"
        assert api.run(stateful, "print(x + 1)")["stdout"] == "42\n"
        eventually(lambda: api.get("/health/detailed").json()["executions"]["unfinished"] == 0)
        for each in api.get("/sessions", params={"limit": 200}).json()["items"]:
            assert api.session_when(each["id"], "running", "failed")["status"] == "running"
    assert '"a request failed"' not in server.log, server.log[-4000:]
    assert "never retrieved" not in server.log, server.log[-4000:]


def keep_asking(server: Server, number: int) -> list[str]:
    """Makes sessions and runs code, until it was refused for a while and then was not."""
    made: list[str] = []
    refused = 0
    with Api(server.url) as api:
        for _ in range(200):
            answer = api.post("/sessions", json={"template_id": "python"})
            if answer.status_code == 201:
                made.append(answer.json()["id"])
                url = f"/executions/sessions/{made[-1]}/execute-sync"
                answer = api.post(url, json={"code": "echo hello", "language": "shell"})
            assert answer.status_code in (200, 201, 503), answer.text
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0
                refused += 1
            else:
                assert (answer.json()["status"], answer.json()["stdout"]) == ("completed", "hello\n"), answer.text
            if (refused and answer.status_code == 200) or len(made) > 12:
                break
    return made


@pytest.mark.soak
def test_a_server_whose_database_is_gone_stops_all_the_same(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    with Server(tmp_path / "state", console=False, database_url=postgres_url, drain_timeout=0.2) as server:
        api = server.api()
        session_id = api.running_session(mode="stateful")
        execution_id = api.submit(session_id, "echo up; sleep 600", language="shell", timeout=900)
        api.said(execution_id, "up")
        postgres.stop()
        try:
            server.ask_to_stop()
            assert server.wait() == 0
        finally:
            postgres.start()
        server.start()
        ended = server.api().execution(execution_id)
        assert (ended["status"], ended["status_reason"]) == ("crashed", "server_restarted")
        assert server.api().session(session_id)["status"] == "failed"
