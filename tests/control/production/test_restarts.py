"""SIGKILL, and what is there of it afterwards, also without the disk."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.control.production.conftest import Fleet, no_traceback
from tests.control.serving import HANG, HELLO, Api


def test_a_server_that_is_killed_keeps_its_word_and_its_disk_can_be_replaced(
    fleet: Fleet, api: Api, tmp_path: Path
) -> None:
    others = api
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        fleet(tmp_path / "state", package_index=index(silent)) as server,
    ):
        api = server.api()
        creating = api.new_session(dependencies=[{"name": "never"}])
        assert api.put(f"/sessions/{creating}/files/early.txt", content=b"early").status_code == 200
        stateless, stateful = api.running_session(), api.running_session(mode="stateful")
        done = api.run(stateless, "mkdir deep; echo made > deep/made.txt; chmod +x deep/made.txt", language="shell")
        api.put(f"/sessions/{stateless}/files/given.txt", content=b"given")
        api.run(stateful, "x = 1")
        ran = api.submit(stateless, "echo up; sleep 600", language="shell", timeout=900)
        api.said(ran, "up")
        with looking(silent):
            server.kill()

        server.start()
        api = server.api()
        assert api.execution(done["id"]) == done
        lost = api.execution(ran)
        assert (lost["status"], lost["status_reason"], lost["stdout"]) == ("crashed", "server_restarted", "up\n")
        assert api.session(stateful)["status"] == "failed"
        assert api.session_when(stateless, "running")["status_reason"] == "server_restarted"
        assert api.run(stateless, "cat given.txt deep/made.txt", language="shell")["stdout"] == "givenmade\n"
        node = api.session(stateless)["runtime_node"]
        with looking(silent):
            server.kill()

        # Another server does not touch what is not its own, though nobody looks after it.
        assert others.post("/health/sync").json()["result"]["resumed"] == []
        assert (others.session(stateless)["status"], others.session(stateless)["runtime_node"]) == ("running", node)
        refused = others.post(f"/executions/sessions/{stateless}/execute", json={"code": HELLO})
        assert refused.status_code == 409
        assert node in refused.json()["detail"]
        assert others.execution(done["id"]) == done

        # One with its name does, and has the files from the object store.
        (tmp_path / "state").rename(tmp_path / "lost")
        (tmp_path / "state").mkdir(0o700)
        (tmp_path / "state" / "node").write_text(f"{node}\n", encoding="ascii")
        server.start()
        api = server.api()
        assert api.session_when(stateless, "running")["runtime_node"] == node
        seen = api.run(stateless, "cat given.txt; deep/made.txt; cat deep/made.txt", language="shell")
        assert (seen["status"], seen["stdout"]) == ("completed", "givenmade\n")
        with looking(silent):
            early = api.get(f"/sessions/{creating}/files/early.txt")
            assert (early.content, api.session(creating)["status"]) == (b"early", "creating")
            for session in (creating, stateless, stateful):
                assert api.delete(f"/sessions/{session}").status_code == 204
    no_traceback(server)


def index(silent: socket.socket) -> str:
    """URL of an index of packages that never answers."""
    silent.settimeout(HANG)
    return f"http://127.0.0.1:{silent.getsockname()[1]}/simple"


def looking(silent: socket.socket) -> socket.socket:
    """The connection of somebody who looks for packages there, as soon as there is one."""
    return silent.accept()[0]
