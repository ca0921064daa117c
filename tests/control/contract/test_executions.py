"""Handlers over HTTP: what goes in, what comes out, and what is told of what went wrong."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.control.serving import HELLO, Api


def test_a_handler_is_run_and_all_of_its_result_is_there(api: Api, own_session: str) -> None:
    ticket = api.post(
        f"/executions/sessions/{own_session}/execute",
        json={"code": HELLO, "language": "python", "timeout": 10, "event": {"name": "World"}, "env_vars": {}},
    )
    assert ticket.status_code == 201
    assert set(ticket.json()) == {"execution_id", "session_id", "status", "created_at"}
    execution_id = ticket.json()["execution_id"]
    assert re.fullmatch(r"exec_\d{14}_[a-z0-9]{8}", execution_id)
    assert ticket.json()["status"] == "pending"
    found = api.execution_when(execution_id)
    assert found["id"] == found["execution_id"] == execution_id
    assert found["session_id"] == own_session
    assert (found["status"], found["exit_code"]) == ("completed", 0)
    assert found["stdout"] == "hello\n"
    assert found["stderr"] == ""
    assert found["return_value"] == {"message": "Hello, World!", "event": {"name": "World"}}
    assert found["has_return_value"] is True
    assert found["error_message"] is None
    assert (found["code"], found["language"], found["timeout"]) == (HELLO, "python", 10)
    assert found["artifacts"] == []
    assert found["retry_count"] == 0
    assert 0 < found["execution_time"] < 10
    assert found["metrics"]["duration_ms"] == pytest.approx(found["execution_time"] * 1000)
    assert found["metrics"]["cpu_time_ms"] > 0
    assert found["metrics"]["peak_memory_mb"] > 1
    assert found["created_at"] <= found["started_at"] <= found["completed_at"]
    for path in ("", "/status", "/result"):
        assert api.get(f"/executions/{execution_id}{path}").json() == found


@pytest.mark.parametrize(
    "value",
    [
        {"status": "success"},
        [1, 2, 3],
        "text",
        "",
        42,
        -(2**70),
        0.5,
        True,
        False,
        None,
        [],
        {},
        {"a": {"b": [{"c": [None, True, "x"]}]}},
        "Grüße, 世界 🎉👩‍👩‍👧",
        {"schlüssel 🔑": "wert"},
        "\0\x1a\x1b[31m\u2028",
    ],
    ids=ascii,
)
def test_a_return_value_is_what_was_returned(api: Api, session: str, value: Any) -> None:
    found = api.run(session, f"def handler(event):\n    return {value!r}")
    assert found["status"] == "completed", found
    assert found["return_value"] == value
    assert type(found["return_value"]) is type(value)
    assert found["has_return_value"] is True


def test_an_event_comes_to_the_handler_as_it_is(api: Api, session: str) -> None:
    event = {"name": "Grüße 🎉", "numbers": [1, 2.5, -(2**70)], "nested": {"none": None, "true": True}, "nul": "\0"}
    found = api.run(session, "def handler(event): return event", event=event)
    assert found["return_value"] == event
    assert found["event"] == event


def test_a_handler_may_take_no_event(api: Api, session: str) -> None:
    found = api.run(session, "def handler(event=None):\n    return event")
    assert found["status"] == "completed"


@pytest.mark.parametrize("text", ["{1, 2}", "object()", "b'x'", "lambda: 1", "{(1, 2): 3}"])
def test_what_is_no_json_is_a_failure_that_says_so(api: Api, session: str, text: str) -> None:
    found = api.run(session, f"def handler(event):\n    print('before')\n    return {text}")
    assert (found["status"], found["status_reason"]) == ("failed", "bad_result")
    assert found["stdout"] == "before\n"
    assert found["error_message"]


def test_not_a_number_is_no_number_in_an_answer(api: Api, session: str) -> None:
    found = api.run(session, "def handler(event): return [float('nan'), float('inf'), 1.5]")
    assert found["status"] in ("completed", "failed")
    if found["status"] == "completed":
        assert found["return_value"][2] == 1.5
        assert found["return_value"][0] is None or isinstance(found["return_value"][0], str)


def test_text_of_all_kinds_comes_out_as_it_was_written(api: Api, session: str) -> None:
    text = "Grüße, 世界 🎉 \u202e \t\r\x1b[31m \0 end"
    found = api.run(session, f"def handler(event):\n    print({text!r})")
    assert found["stdout"] == text + "\n"


def test_bytes_that_are_no_text_do_not_break_the_answer(api: Api, session: str) -> None:
    code = "import sys\ndef handler(event):\n    sys.stdout.buffer.write(b'a\\xff\\xfeb\\n'); return '\\ud800'"
    found = api.run(session, code)
    assert found["status"] == "completed"
    assert found["stdout"].startswith("a")
    assert found["stdout"].endswith("b\n")


def test_long_output_is_all_there(api: Api, session: str) -> None:
    found = api.run(session, "def handler(event):\n    for i in range(20_000): print(f'line {i}')")
    assert found["stdout"] == "".join(f"line {number}\n" for number in range(20_000))
    assert found["truncated"] is False
    lines = api.run(session, "def handler(event):\n    print('x' * 60_000)\n    return list(range(400))")
    assert lines["stdout"] == "x" * 60_000 + "\n"
    assert lines["return_value"] == list(range(400))


@pytest.mark.parametrize("items", [400, 50_000])
def test_a_long_return_value_is_all_there(api: Api, session: str, items: int) -> None:
    found = api.run(session, f"def handler(event): return [{{'i': i, 't': 'text'}} for i in range({items})]")
    assert found["return_value"] == [{"i": i, "t": "text"} for i in range(items)]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def handler(event)\n    return 1", "SyntaxError"),
        ("def handler(event):\n    return 1 / 0", "ZeroDivisionError"),
        ("def handler(event):\n    return 'a' + 1", "TypeError"),
        ("def handler(event):\n    return None.x", "AttributeError"),
        ("def handler(event):\n    return {}['missing']", "KeyError"),
        ("class MyError(Exception): ...\ndef handler(event):\n    raise MyError('my words')", "MyError: my words"),
        ("import no_such_module\ndef handler(event): ...", "ModuleNotFoundError"),
        ("x = 1", "handler"),
    ],
    ids=lambda text: text[:30],
)
def test_an_exception_is_a_failure_with_its_name_in_stderr(api: Api, session: str, code: str, words: str) -> None:
    found = api.run(session, code)
    assert found["status"] == "failed"
    assert found["exit_code"] not in (0, None)
    assert words in found["stderr"]
    assert found["error_message"]
    assert found["has_return_value"] is False
    assert found["return_value"] is None
    assert found["execution_time"] > 0


def test_output_before_an_exception_is_kept(api: Api, session: str) -> None:
    found = api.run(session, "def handler(event):\n    print('before')\n    raise ValueError('my words')")
    assert found["stdout"] == "before\n"
    assert found["error_name"] == "ValueError"
    assert "my words" in found["error_message"]
    assert "raise ValueError" in found["stderr"]


@pytest.mark.parametrize("code", [0, 3, 255])
def test_an_exit_code_is_told(api: Api, session: str, code: int) -> None:
    found = api.run(session, f"import sys\ndef handler(event):\n    print('out')\n    sys.exit({code})")
    assert found["exit_code"] == code
    assert found["stdout"] == "out\n"
    if code:
        assert (found["status"], found["status_reason"]) == ("failed", "exit_code")


def test_what_goes_to_stderr_is_no_failure(api: Api, session: str) -> None:
    code = (
        "import sys, warnings\n"
        "def handler(event):\n"
        "    print('to stderr', file=sys.stderr)\n"
        "    warnings.warn('a warning of mine')\n"
        "    return 1\n"
    )
    found = api.run(session, code)
    assert found["status"] == "completed"
    assert "to stderr" in found["stderr"]
    assert "a warning of mine" in found["stderr"]


def test_variables_of_the_environment_are_those_of_one_execution(api: Api) -> None:
    session_id = api.running_session(env_vars={"OF_SESSION": "s", "BOTH": "s"})
    code = "import os\ndef handler(event): return {n: os.environ.get(n) for n in ('OF_SESSION', 'BOTH', 'MINE')}"
    given = {"MINE": "Grüße 🎉 $HOME `id` \"'", "BOTH": "e"}
    first = api.run(session_id, code, env_vars=given)
    assert first["return_value"] == {"OF_SESSION": "s", **given}
    second = api.run(session_id, code)
    assert second["return_value"] == {"OF_SESSION": "s", "BOTH": "s", "MINE": None}
    shell = api.run(session_id, 'printf "%s" "$MINE"', language="shell", env_vars=given)
    assert shell["stdout"] == given["MINE"]
    api.delete(f"/sessions/{session_id}")


@pytest.mark.parametrize("name", ["timeout", "timeout_sec"])
def test_a_handler_that_does_not_end_is_ended_and_its_output_kept(api: Api, session: str, name: str) -> None:
    code = "import time\ndef handler(event):\n    print('up', flush=True)\n    time.sleep(600)"
    found = api.run(session, code, **{name: 1})
    assert (found["status"], found["status_reason"]) == ("timeout", "timed_out")
    assert found["stdout"] == "up\n"
    assert found["error_message"]
    assert found["execution_time"] >= 1
    assert api.run(session, "def handler(event): return 1")["return_value"] == 1


def test_a_handler_that_spins_is_ended(api: Api, session: str) -> None:
    found = api.run(session, "def handler(event):\n    while True: pass", timeout=1)
    assert found["status"] in ("timeout", "failed")
    assert found["metrics"]["cpu_time_ms"] > 100


def test_files_in_tmp_and_workspace_stay_for_the_next_execution_and_globals_do_not(api: Api, own_session: str) -> None:
    write = (
        "G = 'set'\n"
        "def handler(event):\n"
        "    open('/tmp/test_state.txt', 'w').write('state')\n"
        "    open('made.txt', 'w').write('made')\n"
    )
    assert api.run(own_session, write)["status"] == "completed"
    read = (
        "def handler(event):\n"
        "    return [open('/tmp/test_state.txt').read(), open('/workspace/made.txt').read(), 'G' in globals()]"
    )
    assert api.run(own_session, read)["return_value"] == ["state", "made", False]


def test_tmp_is_private_to_a_session(api: Api, own_session: str, session: str) -> None:
    assert api.run(own_session, "def handler(event): open('/tmp/private', 'w').write('x')")["status"] == "completed"
    found = api.run(session, "import os\ndef handler(event): return os.path.exists('/tmp/private')")
    assert found["return_value"] is False


def test_files_that_were_made_and_changed_are_told(api: Api, own_session: str) -> None:
    assert api.put(f"/sessions/{own_session}/files/given.csv", content=b"a,b\n").status_code == 200
    code = (
        "import os, hashlib\n"
        "def handler(event):\n"
        "    os.makedirs('out')\n"
        "    open('out/made.json', 'w').write('{}')\n"
        "    open('given.csv', 'a').write('1,2\\n')\n"
    )
    found = {each["path"]: each for each in api.run(own_session, code)["artifacts"]}
    assert set(found) == {"out/made.json", "given.csv"}
    made, changed = found["out/made.json"], found["given.csv"]
    assert (made["size"], made["mime_type"], made["type"]) == (2, "application/json", "artifact")
    assert changed["type"] == "output"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", made["checksum"])
    assert api.run(own_session, "def handler(event): ...")["artifacts"] == []


def test_executions_of_a_session_run_side_by_side(api: Api, own_session: str) -> None:
    """Each waits for the other's file, so that they only end if both run at once."""
    code = (
        "import os, time\n"
        "def handler(event):\n"
        "    open(f'/tmp/{event[0]}', 'w').close()\n"
        "    while not os.path.exists(f'/tmp/{event[1]}'): time.sleep(0.01)\n"
        "    return event\n"
    )
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda names: api.run(own_session, code, event=names), (["a", "b"], ["b", "a"])))
    assert [each["return_value"] for each in found] == [["a", "b"], ["b", "a"]]


def test_the_list_has_a_true_total_and_pages(api: Api, own_session: str) -> None:
    assert api.get(f"/executions/sessions/{own_session}/executions").json()["items"] == []
    ids = [api.run(own_session, f"def handler(event):\n    print({n})\n    return {n}")["id"] for n in range(4)]
    found = api.get(f"/executions/sessions/{own_session}/executions").json()
    assert set(found) == {"items", "total", "limit", "offset", "has_more", "next_cursor"}
    assert [each["id"] for each in found["items"]] == ids[::-1]
    assert found["items"][0] == api.execution(ids[3])
    assert (found["total"], found["limit"], found["offset"], found["has_more"]) == (4, 50, 0, False)
    page = api.get(f"/executions/sessions/{own_session}/executions", params={"limit": 2, "offset": 1}).json()
    assert [each["id"] for each in page["items"]] == [ids[2], ids[1]]
    assert (page["total"], page["offset"], page["has_more"]) == (4, 1, True)
    params: dict[str, Any] = {"limit": 3}
    seen: list[str] = []
    while True:
        part = api.get(f"/executions/sessions/{own_session}/executions", params=params).json()
        seen += [each["id"] for each in part["items"]]
        if part["next_cursor"] is None:
            break
        params["cursor"] = part["next_cursor"]
    assert seen == ids[::-1]
    assert api.get(f"/executions/sessions/{own_session}/executions", params={"limit": 0}).status_code == 422


def test_a_list_shows_the_beginning_of_long_output_and_the_result_all_of_it(api: Api, own_session: str) -> None:
    execution_id = api.run(own_session, "def handler(event): print('x' * 150_000)")["id"]
    listed = api.get(f"/executions/sessions/{own_session}/executions").json()["items"][0]
    assert listed["stdout"] == "x" * 100_000
    assert api.execution(execution_id)["stdout"] == "x" * 150_000 + "\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": ""},
        {"code": "x" * 102_401},
        {"code": 1},
        {"language": "cobol"},
        {"timeout": 0},
        {"timeout": 3601},
        {"timeout": 1.5},
        {"env_vars": {"A=": "x"}},
        {"env_vars": ["A"]},
        {"kind": "nonsense"},
        {"kind": "cell", "language": "shell"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
@pytest.mark.parametrize("route", ["execute", "execute-sync"])
def test_what_makes_no_sense_is_refused_with_the_place(
    api: Api, session: str, route: str, wrong: dict[str, object]
) -> None:
    answer = api.post(f"/executions/sessions/{session}/{route}", json={"code": HELLO, **wrong})
    assert answer.status_code == 422
    assert next(iter(wrong)) in answer.json()["detail"]


def test_code_as_long_as_may_be_is_run(api: Api, session: str) -> None:
    code = "def handler(event): return len(open(__file__).read()) if '__file__' in globals() else 1\n"
    code += "#" * (102_400 - len(code))
    assert api.run(session, code)["status"] == "completed"


def test_cells_are_refused_where_no_variables_are_kept(api: Api, session: str) -> None:
    answer = api.post(f"/executions/sessions/{session}/execute", json={"code": "1", "kind": "cell"})
    assert answer.status_code == 400
    assert "stateful" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["execute", "execute-sync"])
def test_a_session_that_does_not_exist_is_not_found(api: Api, route: str) -> None:
    assert api.post(f"/executions/sessions/sess_none/{route}", json={"code": HELLO}).status_code == 404


def test_an_execution_that_does_not_exist_is_not_found(api: Api) -> None:
    for path in ("", "/status", "/result", "/events", "/stream"):
        answer = api.get(f"/executions/exec_none{path}")
        assert answer.status_code == 404
        assert answer.json()["error"] == "Not Found"
    assert api.post("/executions/exec_none/interrupt").status_code == 404


# ---- execute-sync -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", [{"poll_interval": 0.05}, {"poll_interval": 11}, {"sync_timeout": 9}, {"sync_timeout": 3601}], ids=str
)
def test_a_wait_out_of_range_is_refused(api: Api, session: str, query: dict[str, float]) -> None:
    answer = api.post(f"/executions/sessions/{session}/execute-sync", params=query, json={"code": HELLO})
    assert answer.status_code == 422
    assert next(iter(query)) in answer.json()["detail"]


# ---- interrupt ----------------------------------------------------------------------------------------------------


def test_a_running_execution_is_interrupted(api: Api, session: str) -> None:
    execution_id = api.submit(
        session, "import time\ndef handler(event):\n    print('up', flush=True)\n    time.sleep(600)", timeout=900
    )
    api.said(execution_id, "up")
    answer = api.post(f"/executions/{execution_id}/interrupt")
    assert answer.json() == {"execution_id": execution_id, "interrupted": True}
    found = api.execution_when(execution_id)
    assert (found["status"], found["status_reason"]) == ("failed", "interrupted")
    assert found["stdout"] == "up\n"
    again = api.post(f"/executions/{execution_id}/interrupt")
    assert again.json() == {"execution_id": execution_id, "interrupted": False}
    assert api.execution(execution_id) == found


def test_a_waiting_execution_is_interrupted_before_it_begins(api: Api) -> None:
    session_id = api.running_session(mode="stateful")
    first = api.submit(session_id, "import time\nprint('up', flush=True)\ntime.sleep(600)", timeout=900)
    api.said(first, "up")
    second = api.submit(session_id, "print('never')")
    assert api.post(f"/executions/{second}/interrupt").json()["interrupted"] is True
    found = api.execution_when(second)
    assert (found["status"], found["status_reason"], found["stdout"]) == ("failed", "interrupted", "")
    assert api.execution(first)["status"] == "running"
    assert api.post(f"/executions/{first}/interrupt").json()["interrupted"] is True
    assert api.execution_when(first)["status_reason"] == "interrupted"
    api.delete(f"/sessions/{session_id}")


def test_an_execution_can_be_interrupted_while_its_session_comes_up(api: Api) -> None:
    session_id = api.new_session()
    execution_id = api.submit(session_id, "import time\ndef handler(event): time.sleep(600)", timeout=900)
    assert api.post(f"/executions/{execution_id}/interrupt").json()["interrupted"] is True
    assert api.execution_when(execution_id)["status"] == "failed"
    api.delete(f"/sessions/{session_id}")


def test_an_execution_that_outlasts_the_wait_goes_on(
    api: Api, outlasting: Future[tuple[str, httpx.Response, float]]
) -> None:
    session_id, answer, seconds = outlasting.result()
    assert answer.status_code == 408
    assert seconds >= 10
    problem = answer.json()
    assert problem["type"].endswith("not-finished")
    assert api.execution(problem["execution_id"])["status"] == "running"
    assert api.put(f"/sessions/{session_id}/files/go", content=b"").status_code == 200
    assert api.execution_when(problem["execution_id"])["return_value"] == "went"
    api.delete(f"/sessions/{session_id}")
