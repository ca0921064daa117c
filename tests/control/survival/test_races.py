"""Things that are asked for at the same time, at all moments of each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tests.control.serving import FINAL, Api, Server, eventually

T = TypeVar("T")
ONCE = "printf x >> count; cat count"


def at_once(work: Callable[[int], T], count: int) -> list[T]:
    """What it gives for each number, all of them side by side."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def directories(server: Server, sessions: Iterable[str]) -> list[str]:
    """Of these, those that have files."""
    there = os.listdir(server.state_dir / "sandboxes" / "sessions")
    return [name for name in there if name in set(sessions) or name.startswith(".")]


def sandboxes(api: Api) -> int:
    """How many run."""
    return int(api.get("/health/detailed").json()["dependencies"]["runtime_nodes"][0]["sessions"])


def test_a_session_can_be_deleted_at_every_moment_of_its_coming_up(hurt: Server, hurt_api: Api) -> None:
    before = sandboxes(hurt_api)

    def one(number: int) -> str:
        session_id = hurt_api.new_session(mode="stateful" if number % 3 == 0 else "stateless")
        hurt_api.submit(session_id, ONCE, language="shell")
        time.sleep(number * 0.004)
        assert hurt_api.delete(f"/sessions/{session_id}").status_code == 204
        return session_id

    made = at_once(one, 24)
    for session_id in made:
        assert hurt_api.get(f"/sessions/{session_id}").status_code == 404
    assert sandboxes(hurt_api) == before
    assert directories(hurt, made) == []


def test_a_session_can_be_ended_by_many_at_once(hurt_api: Api) -> None:
    session_id = hurt_api.new_session()
    answers = at_once(lambda number: hurt_api.post(f"/sessions/{session_id}/terminate"), 6)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["status"] for answer in answers} == {"terminated"}
    answers = at_once(lambda number: hurt_api.delete(f"/sessions/{session_id}"), 6)
    assert {answer.status_code for answer in answers} <= {204, 404}
    assert hurt_api.get(f"/sessions/{session_id}").status_code == 404


def test_a_session_can_be_deleted_under_what_is_done_in_it(hurt: Server, hurt_api: Api) -> None:
    sessions = [hurt_api.running_session() for _ in range(4)]

    def one(number: int) -> int:
        session_id, what = sessions[number % 4], number // 4
        if what == 0:
            time.sleep(0.05 * (number % 4))
            return hurt_api.delete(f"/sessions/{session_id}").status_code
        if what in (1, 2):
            url = f"/executions/sessions/{session_id}/execute-sync"
            answer = hurt_api.post(url, json={"code": "sleep 0.1; echo x > made", "language": "shell"})
            assert answer.status_code != 200 or answer.json()["status"] in ("completed", "crashed"), answer.text
            return answer.status_code
        if what == 3:
            return hurt_api.put(f"/sessions/{session_id}/files/up", content=bytes(3_000_000)).status_code
        return hurt_api.post(f"/sessions/{session_id}/renew", json={"timeout": 100}).status_code

    assert set(at_once(one, 20)) <= {200, 204, 404, 409}
    for session_id in sessions:
        assert hurt_api.get(f"/sessions/{session_id}").status_code == 404
    assert hurt_api.post("/health/sync").status_code == 200
    eventually(lambda: not directories(hurt, sessions))


def test_a_renewal_that_was_granted_is_kept(hurt_api: Api) -> None:
    sessions = [hurt_api.running_session(timeout=1) for _ in range(20)]
    began = time.monotonic()

    def one(number: int) -> int:
        time.sleep(max(0.0, began + 0.9 + number * 0.06 - time.monotonic()))
        return hurt_api.post(f"/sessions/{sessions[number]}/renew", json={"timeout": 600}).status_code

    answers = at_once(one, len(sessions))
    assert set(answers) <= {200, 409}
    time.sleep(1.2)  # the server looks once a second
    for session_id, answer in zip(sessions, answers, strict=True):
        seen = hurt_api.session(session_id)
        if answer == 200:
            assert seen["status"] == "running"
        else:
            assert (seen["status"], seen["status_reason"]) == ("timeout", "idle")


def test_a_synchronisation_disturbs_nothing_at_any_moment(hurt_api: Api) -> None:
    def one(number: int) -> dict[str, Any]:
        if number % 4 == 0:
            for _ in range(5):
                answer = hurt_api.post("/health/sync")
                assert answer.status_code == 200
                result = answer.json()["result"]
                assert not any(result[name] for name in ("resumed", "failed", "crashed", "pending")), result
            return {}
        session_id = hurt_api.new_session()
        return hurt_api.run(session_id, ONCE, language="shell")

    for found in at_once(one, 16):
        assert not found or (found["status"], found["stdout"]) == ("completed", "x")


def test_an_execution_can_be_interrupted_at_every_moment(hurt_api: Api) -> None:
    session_id = hurt_api.running_session(max_processes=400)

    def one(number: int) -> None:
        execution_id = hurt_api.submit(session_id, "echo up; sleep 0.1", language="shell")
        time.sleep(number * 0.012)
        answer = hurt_api.post(f"/executions/{execution_id}/interrupt")
        assert answer.status_code == 200, answer.text
        ended = hurt_api.execution_when(execution_id)
        assert ended["status"] in FINAL
        if ended["status"] == "completed":
            assert ended["stdout"] == "up\n"
        else:
            assert (ended["status"], ended["status_reason"]) == ("failed", "interrupted"), ended
            assert answer.json()["interrupted"] is True
        kinds = [each["kind"] for each in hurt_api.get(f"/executions/{execution_id}/events").json()["items"]]
        assert kinds.count("end") == 1
        assert kinds[-1] == "end"

    at_once(one, 14)


def test_changes_of_a_template_that_come_together_are_all_kept(hurt_api: Api) -> None:
    body = {"id": "shared", "name": "shared", "warm": False}
    assert hurt_api.post("/templates", json=body).status_code == 201
    for turn in range(10):
        changes = ({"name": f"name {turn}"}, {"default_timeout": 100 + turn}, {"image_url": f"image-{turn}"})
        answers = at_once(lambda number: hurt_api.put("/templates/shared", json=changes[number]), 3)  # noqa: B023
        assert {answer.status_code for answer in answers} == {200}
        seen = hurt_api.get("/templates/shared").json()
        assert {name: seen[name] for change in changes for name in change} == changes[0] | changes[1] | changes[2]
    assert hurt_api.delete("/templates/shared").status_code == 200
