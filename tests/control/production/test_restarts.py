"""SIGKILL, and what is there of it afterwards, also without the disk."""

from __future__ import annotations

from pathlib import Path

from tests.control.production.conftest import Fleet, no_traceback
from tests.control.serving import HELLO, Api


def test_a_server_that_is_killed_keeps_its_word_and_its_disk_can_be_replaced(
    fleet: Fleet, api: Api, tmp_path: Path
) -> None:
    others = api
    with fleet(tmp_path / "state") as server:
        api = server.api()
        stateless, stateful = api.running_session(), api.running_session(mode="stateful")
        done = api.run(stateless, "mkdir deep; echo made > deep/made.txt; chmod +x deep/made.txt", language="shell")
        api.put(f"/sessions/{stateless}/files/given.txt", content=b"given")
        api.run(stateful, "x = 1")
        ran = api.submit(stateless, "echo up; sleep 600", language="shell", timeout=900)
        api.said(ran, "up")
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
        for session in (stateless, stateful):
            assert api.delete(f"/sessions/{session}").status_code == 204
    no_traceback(server)
