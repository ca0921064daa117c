"""What a hostile client sends so that the server fails, or has no time for others."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.control.contract.test_requests import is_problem
from tests.control.serving import HANG, Api, Server

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("cpu", ["1" + "0" * 400, '"' + "9" * 400 + 'm"', "1e308", '"' + "9" * 5000 + 'm"'])
def test_no_number_of_processors_is_too_large_to_be_refused(api: Api, cpu: str) -> None:
    body = f'{{"template_id": "python", "cpu": {cpu}}}'
    assert "number of processors" in is_problem(api.post("/sessions", content=body, headers=JSON), 422)["detail"]


@pytest.mark.parametrize(("field", "most"), [("tags", 32), ("env_vars", 4096)])
def test_thousands_of_bad_names_are_one_mistake(api: Api, field: str, most: int) -> None:
    body = json.dumps({"template_id": "python", field: {f"!{number}": 1 for number in range(30_000)}})
    found = is_problem(api.post("/sessions", content=body, headers=JSON), 422)
    assert len(found["errors"]) == 1
    assert f"no more than {most} names" in found["detail"]


@pytest.mark.parametrize(
    "since",
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2020-01-01T00:00:00", "2020-01-01", "1e300", "nan"],
)
def test_a_time_that_is_none_is_refused(api: Api, since: str) -> None:
    is_problem(api.get("/audit", params={"since": since}), 422)


def test_the_first_and_the_last_moment_are_times(api: Api) -> None:
    assert api.get("/audit", params={"since": "0001-01-01T00:00:00Z", "limit": 1}).status_code == 200
    assert api.get("/audit", params={"since": "9999-12-31T23:59:59Z"}).json()["items"] == []


def test_more_connections_than_there_may_be_keep_nobody_out(tmp_path: Path) -> None:
    """Without descriptors nothing works any more, and each connection that can't be taken is a traceback in the log."""
    with Server(tmp_path / "state", console=False, through=("prlimit", "--nofile=512:512")) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with ExitStack() as stack:
            for number in range(700):
                line = stack.enter_context(socket.create_connection((host, int(port)), timeout=HANG))
                if number % 2:
                    line.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # answered, and kept
                if number % 100 == 99:
                    with Api(server.url) as api:
                        assert api.get("/sessions").status_code == 200
            assert len(os.listdir(f"/proc/{server.pid}/fd")) < 512
        assert "Traceback" not in server.log
