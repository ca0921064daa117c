"""Traces of a real server, sent by an exporter that OpenTelemetry brings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipybox.control.errors import ServerSettingsError
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.settings import ServerSettings
from tests.control.serving import HELLO, Server

SETTINGS: dict[str, Any] = {"console": False, "otel": True, "drain_timeout": 0.5}


def test_sessions_and_executions_have_spans_with_their_ids_and_what_became_of_them(tmp_path: Path) -> None:
    with Server(tmp_path / "state", environment={"OTEL_TRACES_EXPORTER": "console"}, **SETTINGS) as server:
        api = server.api()
        session = api.running_session()
        good = api.run(session, HELLO, env_vars={"TOKEN": "hunter2"})["id"]
        bad = api.run(session, "exit 3", language="shell")["id"]
        assert api.delete(f"/sessions/{session}").status_code == 204
        body = {"id": "none", "name": "none", "preload": ["no_such_module"], "warm": False}
        assert api.post("/templates", json=body).status_code == 201
        failed = api.new_session("none")
        assert api.session_when(failed, "failed")["status_reason"] == "start_failed"
        spans = spans_of(server.last_words())
    assert "hunter2" not in str(spans)
    made = {each["attributes"]["session.id"]: each for each in spans if each["name"] == "session.create"}
    runs = {each["attributes"]["execution.id"]: each for each in spans if each["name"] == "execution"}
    assert {each["parent_id"] for each in [*made.values(), *runs.values()]} == {None}
    said = {id: (each["attributes"]["template.id"], each["attributes"]["status"]) for id, each in made.items()}
    assert said == {session: ("python", "running"), failed: ("none", "failed")}
    for each in made.values():
        below = {one["name"]: one for one in spans if one["parent_id"] == each["context"]["span_id"]}
        assert set(below) == {"session.place", "session.start"}
        is_failed = below["session.start"]["status"]["status_code"] == "ERROR"
        assert is_failed is (each["attributes"]["session.id"] == failed)
    assert {each["attributes"]["session.id"] for each in runs.values()} == {session}
    said = {id: (each["attributes"]["kind"], each["attributes"]["status"]) for id, each in runs.items()}
    assert said == {good: ("handler", "completed"), bad: ("shell", "failed")}


def test_what_a_request_leads_to_is_below_the_span_of_who_asked(tmp_path: Path) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with Server(tmp_path / "state", environment={"OTEL_TRACES_EXPORTER": "console"}, **SETTINGS) as server:
        asking = server.api(headers={"traceparent": f"00-{trace}-{parent}-01"})
        session = asking.running_session()
        mine = asking.run(session, HELLO)["id"]
        nonsense = server.api(headers={"traceparent": "00-nonsense"}).run(session, HELLO)["id"]
        nobody = server.api().run(session, HELLO)["id"]
        spans = spans_of(server.last_words())
    found = {each["attributes"].get("execution.id", each["name"]): each for each in spans}
    for name in (mine, "session.create"):
        assert (found[name]["context"]["trace_id"], found[name]["parent_id"]) == (f"0x{trace}", f"0x{parent}")
    for name in (nonsense, nobody):
        assert found[name]["parent_id"] is None
        assert found[name]["context"]["trace_id"] != f"0x{trace}"


@pytest.mark.asyncio
async def test_a_server_that_can_not_trace_does_not_start_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nonsense")
    with pytest.raises(ServerSettingsError, match=r"otel: no exporter 'nonsense'.*ipybox\[otel\]"):
        async with ControlPlane(ServerSettings(state_dir=str(tmp_path / "state"), otel=True)):
            pass


def spans_of(text: str) -> list[dict[str, Any]]:
    """JSON objects, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        span, end = decoder.raw_decode(text)
        found.append(span)
        text = text[end:]
    return found
