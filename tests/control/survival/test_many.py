"""Many sessions, at once and one after the other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.control.serving import Api, Server, eventually
from tests.control.survival import family

MIB = 1024 * 1024


@pytest.mark.parametrize("mine", [{"max_executions_per_key": 200}], indirect=True)
def test_two_hundred_sessions_made_at_once_come_up_and_go_away(mine: Server) -> None:
    create(mine, 200)


@pytest.mark.parametrize("mine", [{"max_sessions": 20, "max_sessions_per_key": 30}], indirect=True)
def test_what_is_more_than_there_is_room_for_is_refused_and_all_others_come_up(mine: Server) -> None:
    create(mine, 40, room=20)


def create(server: Server, count: int, room: int | None = None) -> None:
    """Makes them all at once, uses them, deletes them, and looks at what is left."""
    api = server.api()
    api.run(api.new_session(id="first"), "echo", language="shell")
    api.delete("/sessions/first")
    processes = len(family.of(server))

    def one(number: int) -> tuple[int, str]:
        with Api(server.url) as mine:
            answer = mine.post("/sessions", json={"template_id": "python"})
            if answer.status_code != 201:
                assert int(answer.headers["Retry-After"]) > 0, answer.text
                return answer.status_code, ""
            made = str(answer.json()["id"])
            ended = mine.run(made, f"echo {number} > mine; cat mine", language="shell", timeout=60)
            assert (ended["status"], ended["stdout"]) == ("completed", f"{number}\n"), ended
            return 201, made

    def gone(session_id: str) -> int:
        with Api(server.url) as mine:  # one that threads share closes a connection under another thread, now and then
            return mine.delete(f"/sessions/{session_id}").status_code

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(one, range(count)))
        made = [session_id for status, session_id in answers if status == 201]
        assert len(made) == (room or count)
        assert {status for status, _ in answers} <= {201, 429, 503}
        for session_id in made:
            assert api.session(session_id)["status"] == "running"
        assert set(pool.map(gone, made)) == {204}
    eventually(lambda: len(family.of(server)) <= processes)
    assert os.listdir(server.state_dir / "sandboxes" / "sessions") == []


def test_sessions_that_come_and_go_leave_nothing(hurt: Server, hurt_api: Api) -> None:
    process = psutil.Process(hurt.pid)

    def cycle() -> None:
        session_id = hurt_api.new_session()
        assert hurt_api.run(session_id, "echo x > made; echo hello", language="shell")["stdout"] == "hello\n"
        assert hurt_api.put(f"/sessions/{session_id}/files/up", content=bytes(10_000)).status_code == 200
        assert hurt_api.delete(f"/sessions/{session_id}").status_code == 204

    def look() -> tuple[int, int, int, int]:
        mounts = len(Path(f"/proc/{hurt.pid}/mountinfo").read_text(encoding="utf-8").splitlines())
        return process.num_fds(), process.num_threads(), len(family.of(hurt)), mounts

    there = set(os.listdir(hurt.state_dir / "sandboxes" / "sessions"))
    for _ in range(15):
        cycle()
    before, memory = look(), process.memory_info().rss
    for _ in range(60):
        cycle()
    slack = (6, 12, 0, 0)  # connections of the database and threads come as they are needed, up to a number
    limits = [then + more for then, more in zip(before, slack, strict=True)]
    eventually(look, lambda after: all(now <= most for now, most in zip(after, limits, strict=True)))
    assert process.memory_info().rss - memory < 6 * MIB
    assert set(os.listdir(hurt.state_dir / "sandboxes" / "sessions")) == there
