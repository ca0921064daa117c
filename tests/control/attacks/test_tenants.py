"""Clients that would have what belongs to others."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipybox.control.service.ids import planned_id
from ipybox.control.storage.workspaces import Workspaces
from tests.control.serving import Server

pytestmark = [pytest.mark.sandbox]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "state", auth="always", console=False) as running:
        yield running


def test_nobody_gets_a_session_of_another_for_an_idempotency_key(server: Server) -> None:
    """The name of what is made follows from the key and the request, which others may know, and names can be chosen."""
    admin = server.api(server.new_key("admin", "boss", "admin"))
    mallory = server.api(server.new_key("mallory", "mallory", "read", "execute"))
    body = json.dumps({"template_id": "python"}).encode()
    asked = hashlib.sha256(b"POST /api/v1/sessions?\n" + body).hexdigest()
    taken = planned_id("sess", "boss", f"deploy-1\0{asked}")
    mallory.new_session(id=taken)

    headers = {"Content-Type": "application/json", "Idempotency-Key": "deploy-1"}
    answer = admin.post("/sessions", content=body, headers=headers)
    assert answer.status_code == 409, answer.text
    other = admin.post("/sessions", json={"template_id": "python", "mode": "stateful"}, headers=headers)
    assert (other.status_code, other.json().get("owner")) == (201, "boss")
    assert mallory.session(taken)["owner"] == "mallory"


def test_a_list_of_executions_does_not_hold_all_that_they_returned(server: Server) -> None:
    """A few hundred return values of some megabytes are more than a server has memory."""
    api = server.api(server.new_key("eve", "eve", "read", "execute"))
    session_id = api.new_session()
    large = api.run(session_id, "def handler(e): return 'x' * 200_000")
    small = api.run(session_id, "def handler(e): return 'x' * 20")
    listed = api.get(f"/executions/sessions/{session_id}/executions").json()["items"]
    assert [each["return_value"] for each in listed] == [small["return_value"], None]
    assert listed[1]["has_return_value"]
    assert len(large["return_value"]) == 200_000


@pytest.mark.asyncio
async def test_a_workspace_that_two_remove_at_once_is_gone_for_both(tmp_path: Path) -> None:
    async with Workspaces(tmp_path / "root", uid=None, min_free_bytes=0) as workspaces:

        async def remove_orphans() -> None:
            for _ in range(20):
                for name in await workspaces.orphans([]):
                    await workspaces.remove(name)

        for number in range(10):
            files = await workspaces.create(f"s{number}", is_new=True)
            for name in range(100):
                (files / f"file-{name}").touch()
            await asyncio.gather(workspaces.remove(f"s{number}"), remove_orphans(), remove_orphans())
            assert list((tmp_path / "root").iterdir()) == []
