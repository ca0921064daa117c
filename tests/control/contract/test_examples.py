"""Examples in the OpenAPI document are there for everything, and are such as are really sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped, unused-ignore]

from tests.control.serving import Api, Server


@pytest.fixture(scope="module")
def document(server: Server, api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"{server.url}/openapi.json").json()
    return found


def contents(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for operations in document["paths"].values():
        for operation in operations.values():
            parts = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for part, said in parts.items():
                for media_type, content in said.get("content", {}).items():
                    yield f"{operation['operationId']} {part}", media_type, content


def examples(document: dict[str, Any], content: dict[str, Any]) -> list[Any]:
    kept = document["components"]["examples"]
    return [kept[each["$ref"].rpartition("/")[2]]["value"] for each in content.get("examples", {}).values()]


def test_every_body_and_every_answer_has_an_example_that_fits_its_schema(document: dict[str, Any]) -> None:
    seen = 0
    for place, media_type, content in contents(document):
        found = examples(document, content)
        assert found or media_type == "*/*", f"{place} has no example"
        if "json" in media_type:
            schema = {**content["schema"], "components": document["components"]}
            for each in found:
                errors = [error.message for error in Draft202012Validator(schema).iter_errors(each)]
                assert errors == [], place
                seen += 1
    assert seen > 300


def test_the_example_of_a_refusal_is_of_its_status(document: dict[str, Any]) -> None:
    for place, media_type, content in contents(document):
        if media_type == "application/problem+json":
            assert {str(each["status"]) for each in examples(document, content)} == {place.rpartition(" ")[2]}


def test_the_examples_of_requests_are_taken_and_do_what_they_say(
    document: dict[str, Any], api: Api, session: str
) -> None:
    sent = {place: examples(document, content)[0] for place, _, content in contents(document) if "request" in place}
    assert api.post("/templates", json=sent["create_template request"]).status_code == 201
    template_id = sent["create_template request"]["id"]
    assert api.put(f"/templates/{template_id}", json=sent["update_template request"]).status_code == 200
    assert api.delete(f"/templates/{template_id}").status_code == 200
    made = api.post("/sessions", json=sent["create_session request"])
    assert made.status_code == 201
    assert api.post(f"/sessions/{made.json()['id']}/renew", json=sent["renew_session request"]).status_code == 200
    assert api.delete(f"/sessions/{made.json()['id']}").status_code == 204
    done = api.post(f"/executions/sessions/{session}/execute-sync", json=sent["execute_sync request"]).json()
    shown = document["components"]["examples"]["ExecutionAnswer"]["value"]
    assert {name: done[name] for name in ("code", "return_value", "stdout", "kind", "status", "events")} == {
        name: shown[name] for name in ("code", "return_value", "stdout", "kind", "status", "events")
    }
    assert api.post("/internal/containers/ready", json=sent["container_ready request"]).status_code == 200
    assert api.post("/internal/containers/exited", json=sent["container_exited request"]).status_code == 200
    key = api.post("/keys", json=sent["create_key request"])
    assert key.status_code == 201
    rotated = api.post(f"/keys/{key.json()['key']['id']}/rotate", json=sent["rotate_key request"])
    assert rotated.status_code == 201
