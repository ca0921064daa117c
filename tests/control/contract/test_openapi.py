"""The OpenAPI document, and a server that keeps to it whatever it is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.control.serving import ENVIRONMENT, HELLO, Api, Server

SEED = 20261121
FUZZ = (sys.executable, "-m", "schemathesis.cli")
UNCHECKED = (
    # The lists' limit is cut to what may be, and a field that nobody knows is left alone: the model's clients do both.
    "negative_data_rejection",
    # What fits the schema may still be refused, as templates, sessions and packages have to exist.
    "positive_data_acceptance",
    # A path that is also a case of another one has the methods of both: /files/upload is a file as well.
    "allow_header_conformance",
)


@pytest.fixture(scope="module")
def document(server: Server, api: Api) -> dict[str, Any]:
    answer = api.get(f"{server.url}/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_each_operation_has_a_name_of_its_own_and_a_summary(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert all(operation["description"] for _, _, operation in operations(document))


def test_each_refusal_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, said in operation["responses"].items():
            if int(status) >= 400 and "DetailedHealth" not in str(said):
                schema = said["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (method, path, status)
        assert "HTTPValidationError" not in str(operation)


def test_the_paths_of_the_model_are_there(document: dict[str, Any]) -> None:
    expected = {
        "/api/v1/templates": {"get", "post"},
        "/api/v1/templates/{template_id}": {"get", "put", "delete"},
        "/api/v1/sessions": {"get", "post"},
        "/api/v1/sessions/{session_id}": {"get", "delete"},
        "/api/v1/sessions/{session_id}/terminate": {"post"},
        "/api/v1/sessions/{session_id}/dependencies/install": {"post"},
        "/api/v1/executions/sessions/{session_id}/execute": {"post"},
        "/api/v1/executions/sessions/{session_id}/execute-sync": {"post"},
        "/api/v1/executions/sessions/{session_id}/executions": {"get"},
        "/api/v1/executions/{execution_id}/status": {"get"},
        "/api/v1/executions/{execution_id}/result": {"get"},
        "/api/v1/sessions/{session_id}/files": {"get"},
        "/api/v1/sessions/{session_id}/files/upload": {"post"},
        "/api/v1/sessions/{session_id}/files/{file_path}": {"get", "put", "delete"},
        "/api/v1/health": {"get"},
        "/api/v1/health/detailed": {"get"},
        "/api/v1/health/sync": {"post"},
        "/api/v1/internal/containers/ready": {"post"},
        "/api/v1/internal/containers/exited": {"post"},
        "/api/v1/internal/executions/{execution_id}/heartbeat": {"post"},
        "/api/v1/internal/executions/{execution_id}/result": {"post"},
    }
    for path, methods in expected.items():
        assert methods <= set(document["paths"][path]), path


# ---- whatever is sent ---------------------------------------------------------------------------------------------


def fuzz(server: Server, directory: Path, ids: dict[str, str], ended: dict[str, str], *options: str) -> None:
    """Runs schemathesis, with things that exist for what is asked for, and others for what would end them."""
    config = directory / "schemathesis.toml"
    config.write_text(_config(ids, ended), encoding="utf-8")
    command = [*FUZZ, "--config-file", str(config), "run", f"{server.url}/openapi.json", "--seed", str(SEED)]
    command += [
        "--checks",
        "all",
        "--exclude-checks",
        ",".join(UNCHECKED),
        "--no-shrink",
        "--request-timeout",
        "30",
    ]
    done = subprocess.run(
        [*command, "--warnings", "off", "--continue-on-failure", *options],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**ENVIRONMENT, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONHASHSEED": "0"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2000:]


def _config(ids: dict[str, str], ended: dict[str, str]) -> str:
    def table(of: dict[str, str]) -> str:
        return ", ".join(f"{json.dumps('path.' + name)} = {json.dumps(value)}" for name, value in of.items())

    ending = (
        "delete_session",
        "terminate_session",
        "install_dependencies",
        "delete_template",
        "revoke_key",
        "rotate_key",
    )
    lines = [f"parameters = {{ {table(ids)} }}", ""]
    for name in ending:
        lines += ["[[operations]]", f'include-operation-id = "{name}"', f"parameters = {{ {table(ended)} }}", ""]
    return "\n".join(lines)


def things(api: Api) -> tuple[dict[str, str], dict[str, str]]:
    """Ids of what is there, and of what may be ended."""
    session_id = api.running_session(id="there")
    assert api.put(f"/sessions/{session_id}/files/there.txt", content=b"there").status_code == 200
    assert api.post("/templates", json={"id": "there", "name": "there", "warm": False}).status_code == 201
    execution_id = api.run(session_id, HELLO)["id"]
    key = api.post("/keys", json={"name": "there", "owner": "there"}).json()["key"]["id"]
    api.new_session(id="ended")
    api.post("/sessions/ended/terminate")
    ids = {
        "session_id": session_id,
        "execution_id": execution_id,
        "template_id": "there",
        "file_path": "there.txt",
        "key_id": key,
    }
    return ids, {"session_id": "ended", "template_id": "none", "key_id": "none"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.mark.parametrize(
    ("auth", "options"),
    [("auto", ["--phases", "examples,coverage", "-n", "1"]), ("always", ["--phases", "examples,fuzzing", "-n", "8"])],
    ids=["every-edge-without-a-key", "at-random-with-a-key"],
)
def test_whatever_is_sent_is_answered_as_documented(
    tmp_path: Path, wheels: Path, auth: str, options: list[str]
) -> None:
    settings: dict[str, Any] = {"rate_limit": "1000000/minute", "max_sessions": 300, "package_index": wheels.as_uri()}
    with Server(tmp_path / "state", console=False, auth=auth, drain_timeout=0.2, **settings) as server:
        key = server.new_key("first", "operator", "admin") if auth == "always" else None
        api = server.api(key)
        ids, ended = things(api)
        fuzz(server, tmp_path, ids, ended, *options, *(["-H", f"Authorization: Bearer {key}"] if key else []))
        assert api.run(ids["session_id"], HELLO)["status"] == "completed"
        assert '"level": "error"' not in server.log, server.log
