"""Large JSON goes through the server as it is, whoever sends it, and is not made into objects on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.control.serving import Api

MANY = 120_000
SHOW = """
import json
from IPython.display import display
with open('/workspace/bundle.json') as bundle:
    display(json.load(bundle), raw=True)
"""
SHAPES: dict[str, Any] = {
    "numbers": list(range(MANY)),
    "empty lists": [[]] * MANY,
    "objects": [{"a": number, "b": {"c": [number]}} for number in range(MANY // 4)],
    "text": 'é\u2028😀\x85\\"\n' * MANY,
}


@pytest.fixture(params=SHAPES)
def value(request: pytest.FixtureRequest) -> Any:
    return SHAPES[request.param]


def test_a_large_event_comes_to_the_handler_and_comes_back(api: Api, own_session: str, value: Any) -> None:
    said = api.run(own_session, "def handler(event):\n    return event", event=value)
    assert (said["status"], said["event"], said["return_value"]) == ("completed", value, value)
    assert api.execution(said["id"])["return_value"] == value
    listed = api.get(f"/executions/sessions/{own_session}/executions").json()["items"][0]
    assert (listed["event"], listed["return_value"], listed["has_return_value"]) == (None, None, True)


def test_a_large_value_is_the_same_when_its_request_is_sent_again(api: Api, own_session: str, value: Any) -> None:
    request = {"code": "def handler(event):\n    return event", "event": value}
    path = f"/executions/sessions/{own_session}/execute-sync"
    headers = {"Idempotency-Key": f"{own_session}-large"}
    first, again = (api.post(path, json=request, headers=headers) for _ in range(2))
    assert (first.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert first.json() == again.json()
    assert first.json()["return_value"] == value


def test_large_things_that_are_shown_are_the_same_in_events_and_in_the_stream(
    api: Api, stateful: str, value: Any
) -> None:
    bundle = {"application/json": value, "text/plain": "small"}
    api.put(f"/sessions/{stateful}/files/bundle.json", content=json.dumps(bundle)).raise_for_status()
    code = (
        "import json\nfrom IPython.display import display\ndisplay(json.load(open('/workspace/bundle.json')), raw=True)"
    )
    said = api.run(stateful, code)
    assert said["status"] == "completed", said["error_message"]
    listed = api.get(f"/executions/{said['id']}/events").json()["items"]
    assert [each["data"]["data"] for each in listed if each["kind"] == "display"] == [bundle]
    lines = api.get(f"/executions/{said['id']}/stream").text.splitlines()
    streamed = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert streamed == listed


@pytest.mark.parametrize("returned", ["[NaN]", "[1e999]", '"\\ud800"', "{", "[" * 300 + "]" * 300])
@pytest.mark.parametrize("padding", [10, 300_000])
def test_a_value_that_is_no_json_is_refused_whether_it_is_large_or_not(
    api: Api, own_session: str, returned: str, padding: int
) -> None:
    """Code that lies to its agent about what it returned: what it said is looked at by the server."""
    code = f"""
from ipybox.control.inside import results
results.as_json = lambda value: ('[' + '[],' * {padding} + {returned!r} + ']').encode()
def handler(event):
    return 1
"""
    said = api.run(own_session, code)
    if returned in ("{", "[" * 300 + "]" * 300):
        assert (said["status"], said["status_reason"]) == ("failed", "bad_result")
        return
    assert said["return_value"][-1] in (None, [None], "\ufffd")
    assert len(said["return_value"]) == padding + 1


def test_a_session_with_a_large_event_is_listed_without_it(api: Api) -> None:
    session_id = api.new_session(event=[[]] * MANY)
    assert api.session(session_id)["event"] == [[]] * MANY
    listed = {each["id"]: each for each in api.get("/sessions", params={"limit": 200}).json()["items"]}
    assert listed[session_id]["event"] is None
    assert api.post(f"/sessions/{session_id}/terminate").json()["event"] == [[]] * MANY
    api.delete(f"/sessions/{session_id}")


@pytest.mark.parametrize(
    "body",
    [
        '{"code": "x", "event": [' + "1," * MANY + "NaN]}",
        '{"code": "x", "event": ["' + "x" * MANY + '\\ud800"]}',
        '{"code": "x", "event": ' + "[" * 101 + "1," * MANY + "1" + "]" * 101 + "}",
        '{"code": "x", "event": [' + "1," * MANY,
        '{"code": "x", "env_vars": {' + ",".join(f'"k{number}": 1' for number in range(MANY)) + "}}",
        '{"code": "x", "code_too": [' + "[]," * MANY + "1]}",
        "[" + "{}," * MANY + "{}]",
        '"' + "x" * MANY + '"',
    ],
    ids=["NaN", "half a character", "deep", "cut off", "names", "unknown", "list", "text"],
)
def test_a_large_body_that_is_none_is_refused_in_words(api: Api, session: str, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = api.post(f"/executions/sessions/{session}/execute", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"]


@pytest.mark.parametrize("field", ["network", "preload", "packages", "default_env_vars", "name", "warm"])
def test_very_much_where_something_small_is_expected_is_refused(api: Api, field: str) -> None:
    answer = api.post("/templates", json={"id": "much", "name": "much", field: [[]] * MANY})
    assert answer.status_code == 422
    assert api.get("/templates/much").status_code == 404
