"""What executions say, as it happens: pages of events and streams of them, without loss and without repetition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.control.serving import Api, Server

pytestmark = pytest.mark.usefixtures("outlasting")
"""Which waits for as long as one has to at least; a module that comes later asks for what became of it."""

LINES = (
    "import time\ndef handler(event):\n    for n in range(event):\n        print('line', n, flush=True)\n        {}\n"
)
QUICK = LINES.format("pass")
SLOW = LINES.format("time.sleep(0.01)")


def parsed(lines: Iterator[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Events of a stream: id, kind and data; comments are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def followed(
    api: Api, execution_id: str, after: int = 0, last_id: int | None = None, stop: int | None = None
) -> list[tuple[int, str, dict[str, Any]]]:
    """Events of a stream to its end, or until there are so many: then the connection breaks."""
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    found: list[tuple[int, str, dict[str, Any]]] = []
    with api.stream("GET", f"/executions/{execution_id}/stream", params={"after": after}, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for event in parsed(answer.iter_lines()):
            found.append(event)
            if len(found) == stop:
                break
    return found


def text_of(events: list[tuple[int, str, dict[str, Any]]]) -> str:
    return "".join(data["data"]["text"] for _, kind, data in events if kind == "stdout")


def expected(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(count))


def test_a_stream_has_all_events_in_order_while_they_happen_and_then_ends(api: Api, session: str) -> None:
    execution_id = api.submit(session, SLOW, event=50)
    events = followed(api, execution_id)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert text_of(events) == expected(50)
    assert events[-1][1] == "end"
    assert events[-1][2]["data"]["status"] == "completed"
    assert len(events) > 3, "it was one batch, so nothing was seen while it happened"
    assert [data["seq"] for _, _, data in events] == [number for number, _, _ in events]


def test_a_stream_of_what_is_over_is_the_same(api: Api, session: str) -> None:
    execution_id = api.run(session, QUICK, event=10)["id"]
    events = followed(api, execution_id)
    assert text_of(events) == expected(10)
    assert events == followed(api, execution_id)
    assert followed(api, execution_id, after=events[-1][0]) == []
    assert followed(api, execution_id, after=events[-2][0]) == events[-1:]


@pytest.mark.parametrize("by", ["cursor", "header"])
def test_a_stream_goes_on_where_it_broke(server: Server, session: str, by: str) -> None:
    api = server.api()
    execution_id = api.submit(session, SLOW, event=60)
    events: list[tuple[int, str, dict[str, Any]]] = []
    while not events or events[-1][1] != "end":
        last = events[-1][0] if events else 0
        more = {"after": last} if by == "cursor" else {"last_id": last}
        events += followed(server.api(), execution_id, stop=2, **more)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert text_of(events) == expected(60)


def test_many_who_follow_see_the_same(server: Server, session: str) -> None:
    execution_id = server.api().submit(session, SLOW, event=40)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: followed(server.api(), execution_id), range(4)))
    assert all(each == found[0] for each in found)
    assert text_of(found[0]) == expected(40)


def test_pages_of_events_give_the_same_as_the_stream(api: Api, session: str) -> None:
    execution_id = api.submit(session, SLOW, event=40)
    seen: list[dict[str, Any]] = []
    is_final = False
    while not is_final:
        page = api.get(
            f"/executions/{execution_id}/events", params={"after": seen[-1]["seq"] if seen else 0, "limit": 3}
        )
        assert set(page.json()) == {"items", "is_final"}
        seen += page.json()["items"]
        is_final = page.json()["is_final"]
    assert [data for _, _, data in followed(api, execution_id)] == seen
    assert seen[-1]["kind"] == "end"
    assert api.execution(execution_id)["events"] == len(seen)


def test_stdout_and_stderr_keep_their_order(api: Api, session: str) -> None:
    code = (
        "import sys\n"
        "def handler(event):\n"
        "    for n in range(5):\n"
        "        print('out', n, flush=True); print('err', n, file=sys.stderr, flush=True)\n"
    )
    execution_id = api.run(session, code)["id"]
    events = followed(api, execution_id)
    assert {kind for _, kind, _ in events} == {"stdout", "stderr", "end"}
    assert "".join(data["data"]["text"] for _, kind, data in events if kind == "stderr") == "".join(
        f"err {number}\n" for number in range(5)
    )


def test_a_cursor_that_is_none_is_refused(api: Api, session: str) -> None:
    execution_id = api.run(session, QUICK, event=1)["id"]
    for headers in ({"Last-Event-ID": "x"}, {"Last-Event-ID": "-1"}):
        assert api.get(f"/executions/{execution_id}/stream", headers=headers).status_code == 422
    for query in ({"after": -1}, {"after": "x"}, {"limit": 0}, {"limit": 1001}):
        assert api.get(f"/executions/{execution_id}/events", params=query).status_code == 422


def test_a_stream_says_that_somebody_is_there_before_anything_happens(api: Api, session: str) -> None:
    execution_id = api.submit(session, "import time\ndef handler(event): time.sleep(600)", timeout=900)
    with api.stream("GET", f"/executions/{execution_id}/stream") as answer:
        assert next(answer.iter_lines()).startswith(":")
    assert api.post(f"/executions/{execution_id}/interrupt").json()["interrupted"] is True
    assert api.execution_when(execution_id)["status"] == "failed"


def test_another_client_takes_over_what_the_first_one_began(server: Server, session: str) -> None:
    with httpx.Client(base_url=f"{server.url}/api/v1", trust_env=False) as first:
        ticket = first.post(f"/executions/sessions/{session}/execute", json={"code": SLOW, "event": 30}).json()
    second = server.api()
    assert text_of(followed(second, ticket["execution_id"])) == expected(30)
    assert second.execution_when(ticket["execution_id"])["stdout"] == expected(30)
