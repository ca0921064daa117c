"""Commits that are made, and whose answer does not come."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.control.postgres_server import PostgresServer
from tests.control.serving import FINAL, Api, Server, eventually
from tests.control.survival.forgetful_line import ForgetfulLine

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
CODE = "printf x >> count; echo one; sleep 0.05; echo two"


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[ForgetfulLine]:
    with tempfile.TemporaryDirectory(prefix="ipybox-line-", dir="/tmp") as place:  # a short path, for the socket
        with ForgetfulLine(Path(place), postgres.directory) as line:
            yield line


@pytest.fixture
def doubtful(line: ForgetfulLine, postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> Iterator[Server]:
    """A server at the end of that line."""
    url = postgres_url.replace(str(postgres.directory), str(line.directory))
    with Server(
        tmp_path / "state", console=False, database_url=url, rate_limit="100000/minute", drain_timeout=2
    ) as server:
        yield server
        line.share = 0.0
    assert "never retrieved" not in server.log, server.log[-4000:]


def until_answered(api: Api, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    """Asks again and again with one key, as a client does that is told to come back."""
    answer = eventually(
        lambda: api.post(path, json=body, headers={"Idempotency-Key": key}),
        lambda seen: seen.status_code not in (409, 503),
    )
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def everything(postgres: PostgresServer, url: str, sql: str) -> list[list[str]]:
    """Rows."""
    name = url.split("/")[3].split("?")[0]
    return [line.split("|") for line in postgres.run(sql, name).splitlines()]


def test_what_is_taken_while_its_session_ends_has_ended_when_that_is_answered(
    doubtful: Server, postgres: PostgresServer, migrated: str
) -> None:
    api, lock = doubtful.api(), "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE"
    session_id = api.running_session()
    with ThreadPoolExecutor(2) as pool:
        with postgres.holding(migrated, lock.format("execution_events")):  # nothing can come to its end
            with postgres.holding(migrated, lock.format("executions")):  # nor to its beginning
                taking = pool.submit(api.submit, session_id, CODE, language="shell")
                eventually(lambda: postgres.run(WAITING), lambda seen: seen != "0")
                ending = pool.submit(api.post, f"/sessions/{session_id}/terminate")
                eventually(lambda: api.get("/health/detailed").json()["sessions"]["sandboxes"], lambda seen: seen == 0)
            execution_id = taking.result()
            is_answered = bool(wait([ending], timeout=1.0).done)
            assert not is_answered or api.execution(execution_id)["status"] == "crashed"
        assert ending.result().json()["status"] == "terminated"
    seen = api.execution(execution_id)
    assert (seen["status"], seen["status_reason"]) == ("crashed", "session_ended")


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_kept_without_a_word_is_run_once_and_comes_to_its_end(
    seed: int, doubtful: Server, line: ForgetfulLine, postgres: PostgresServer, postgres_url: str
) -> None:
    line.share = 0.15

    def client(number: int) -> list[str]:
        chance = random.Random(seed * 100 + number)
        ran = []
        with Api(doubtful.url) as api:
            for turn in range(5):
                key = f"{number}-{turn}"
                session_id = until_answered(api, "/sessions", {"template_id": "python"}, f"s{key}")["id"]
                if chance.random() < 0.5:  # nobody asks again for this one
                    api.post("/sessions", json={"template_id": "python"})
                body = {"code": CODE.replace("count", f"count-{key}"), "language": "shell"}
                path = f"/executions/sessions/{session_id}/execute"
                ran.append(until_answered(api, path, body, f"e{key}")["execution_id"])
                api.post(path, json={"code": "echo one; echo two", "language": "shell"})
                if chance.random() < 0.6:
                    api.post("/health/sync")
        return ran

    with ThreadPoolExecutor(4) as pool:
        made = [each for ran in pool.map(client, range(4)) for each in ran]
    line.share = 0.0
    assert line.lost > 10
    api = doubtful.api()

    unfinished = "SELECT id, status FROM executions WHERE status IN ('pending', 'running')"
    creating = "SELECT id FROM sessions WHERE status = 'creating'"
    eventually(lambda: everything(postgres, postgres_url, f"{unfinished}"), lambda rows: not rows, 10.0)
    eventually(lambda: everything(postgres, postgres_url, creating), lambda rows: not rows, 10.0)
    sessions = everything(postgres, postgres_url, "SELECT id, status FROM sessions")
    assert {status for _, status in sessions} == {"running"}
    sandboxes = api.get("/health/detailed").json()["dependencies"]["runtime_nodes"][0]["sessions"]
    assert sandboxes == len(sessions)
    for execution_id, session_id, status in everything(
        postgres, postgres_url, "SELECT id, session_id, status FROM executions"
    ):
        seen = api.execution(execution_id)
        events = api.get(f"/executions/{execution_id}/events").json()["items"]
        assert status in FINAL
        assert (status, seen["stdout"]) == ("completed", "one\ntwo\n"), seen
        assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
        assert [each["kind"] for each in events].count("end") == 1
        if execution_id in made:
            counts = [each["path"] for each in seen["artifacts"]]
            assert len(counts) == 1, seen
            assert api.get(f"/sessions/{session_id}/files/{counts[0]}").content == b"x"
    with ExitStack() as stack:
        stack.enter_context(ThreadPoolExecutor(4)).map(lambda each: api.delete(f"/sessions/{each[0]}"), sessions)
