"""Stateful sessions over HTTP: variables stay, and it is said when they are lost."""

from __future__ import annotations

import base64

from tests.control.serving import Api, Server

PNG = b"\x89PNG\r\n\x1a\n"
IMAGE = """
import base64
from IPython.display import display
class Picture:
    def _repr_png_(self):
        return base64.b64decode(
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
display(Picture())
"""


def test_variables_imports_and_functions_stay(api: Api, stateful: str) -> None:
    first = api.run(stateful, "import math\nkept = 41\ndef add(a, b): return a + b")
    assert (first["status"], first["kind"]) == ("completed", "cell")
    found = api.run(stateful, "print(kept)\nadd(kept, 1)")
    assert found["stdout"] == "41\n"
    results = [
        each for each in api.get(f"/executions/{found['id']}/events").json()["items"] if each["kind"] == "result"
    ]
    assert results[0]["data"]["data"]["text/plain"] == "42"


def test_a_handler_in_a_stateful_session_is_a_process_of_its_own(api: Api, stateful: str) -> None:
    assert api.run(stateful, "of_cells = 1")["status"] == "completed"
    code = "def handler(event): return 'of_cells' in globals()"
    found = api.run(stateful, code, kind="handler")
    assert (found["kind"], found["return_value"]) == ("handler", False)


def test_an_image_is_an_event_with_its_bytes(api: Api, stateful: str) -> None:
    found = api.run(stateful, IMAGE)
    assert found["status"] == "completed", found
    shown = [each for each in api.get(f"/executions/{found['id']}/events").json()["items"] if each["kind"] == "display"]
    assert base64.b64decode(shown[0]["data"]["data"]["image/png"]).startswith(PNG)


def test_an_exception_keeps_variables_and_its_words(api: Api, stateful: str) -> None:
    assert api.run(stateful, "before = 1")["status"] == "completed"
    found = api.run(stateful, "before = 2\n1 / 0")
    assert (found["status"], found["error_name"]) == ("failed", "ZeroDivisionError")
    assert "ZeroDivisionError" in found["stderr"]
    assert found["exit_code"] not in (0, None)
    events = api.get(f"/executions/{found['id']}/events").json()["items"]
    assert [each["data"]["name"] for each in events if each["kind"] == "error"] == ["ZeroDivisionError"]
    assert api.run(stateful, "assert before == 2")["status"] == "completed"


def test_an_interrupt_keeps_variables(api: Api, stateful: str) -> None:
    assert api.run(stateful, "survives = 1")["status"] == "completed"
    execution_id = api.submit(stateful, "import time\nprint('up', flush=True)\ntime.sleep(600)", timeout=900)
    api.said(execution_id, "up")
    assert api.post(f"/executions/{execution_id}/interrupt").json()["interrupted"] is True
    assert api.execution_when(execution_id)["status_reason"] == "interrupted"
    assert api.run(stateful, "assert survives == 1")["status"] == "completed"


def test_cells_run_one_after_the_other_in_the_order_in_which_they_came(api: Api) -> None:
    session_id = api.running_session(mode="stateful")
    assert api.run(session_id, "seen = []")["status"] == "completed"
    ids = [api.submit(session_id, f"import time\ntime.sleep(0.02)\nseen.append({n})") for n in range(6)]
    assert api.run(session_id, "print(seen)")["stdout"] == "[0, 1, 2, 3, 4, 5]\n"
    assert {api.execution(each)["status"] for each in ids} == {"completed"}
    api.delete(f"/sessions/{session_id}")


def test_a_crash_is_told_and_the_session_goes_on_without_its_variables(api: Api) -> None:
    session_id = api.running_session(mode="stateful")
    assert api.run(session_id, "lost = 1\nopen('kept.txt', 'w').write('kept')")["status"] == "completed"
    found = api.run(session_id, "import os\nprint('last', flush=True)\nos.kill(os.getpid(), 9)")
    assert found["status"] == "crashed"
    assert found["error_message"]
    assert found["stdout"] == "last\n"
    kinds = [each["kind"] for each in api.get(f"/executions/{found['id']}/events").json()["items"]]
    assert kinds[-1] == "end"
    again = api.run(session_id, "print('lost' in globals(), open('kept.txt').read())")
    assert again["stdout"] == "False kept\n"
    assert api.session(session_id)["status"] == "running"
    api.delete(f"/sessions/{session_id}")


def test_another_client_finds_the_same_variables(api: Api, stateful: str, server: Server) -> None:
    assert api.run(stateful, "shared = 'here'")["status"] == "completed"
    other = server.api()
    assert other.run(stateful, "print(shared)")["stdout"] == "here\n"
