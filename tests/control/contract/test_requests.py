"""What every request meets, whatever it asks for: methods, hosts, origins, bodies, and how it is refused."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from tests.control.serving import HELLO, Api, Server


def is_problem(answer: Any, status: int) -> dict[str, Any]:
    """The body of a refusal, which is the same for all."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["type"].startswith("urn:ipybox:problem:")
    assert found["status"] == status
    assert found["error"] == found["title"]
    assert found["message"] == found["detail"] != ""
    assert isinstance(found["detail"], str)
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["instance"].startswith("/")
    return found


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing/here", None, 404),
        ("GET", "/sessions/sess_none", None, 404),
        ("GET", "/templates/none", None, 404),
        ("GET", "/executions/none", None, 404),
        ("POST", "/sessions", {"template_id": "none"}, 400),
        ("POST", "/sessions", {}, 422),
        ("POST", "/templates", {"id": "python", "name": "x"}, 409),
        ("PATCH", "/sessions", None, 405),
        ("GET", "/sessions?limit=x", None, 422),
        ("GET", "/sessions/" + "x" * 65, None, 422),
    ],
)
def test_every_refusal_is_a_problem(api: Api, method: str, path: str, body: object, status: int) -> None:
    is_problem(api.request(method, path, json=body), status)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/templates", "GET, POST"),
        ("/templates/python", "DELETE, GET, PUT"),
        ("/sessions", "GET, POST"),
        ("/sessions/x", "DELETE, GET"),
        ("/sessions/x/terminate", "POST"),
        ("/sessions/x/files", "GET"),
        ("/sessions/x/files/upload", "DELETE, GET, POST, PUT"),
        ("/sessions/x/files/a/b", "DELETE, GET, PUT"),
        ("/executions/sessions/x/execute-sync", "POST"),
        ("/executions/x/stream", "GET"),
        ("/health", "GET"),
        ("/keys/x", "DELETE"),
    ],
)
def test_a_method_that_is_not_there_is_told_those_that_are(api: Api, path: str, allowed: str) -> None:
    answer = api.request("PATCH", path)
    is_problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'{"template_id": "python"',
        b"\xff\xfe",
        b'"' + b"x" * 100,
        b"[" * 100_000,
    ],
    ids=lambda body: ascii(body[:20]),
)
def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    answer = api.post("/sessions", content=body, headers={"Content-Type": "application/json"})
    is_problem(answer, answer.status_code)
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", '"\\ud800"', "[" * 200 + "]" * 200, "9" * 5000])
def test_json_that_can_not_be_kept_is_refused(api: Api, session: str, text: str) -> None:
    body = f'{{"code": {json.dumps(HELLO)}, "event": {text}}}'
    answer = api.post(
        f"/executions/sessions/{session}/execute", content=body, headers={"Content-Type": "application/json"}
    )
    is_problem(answer, answer.status_code)
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_json_that_does_not_say_that_it_is_is_refused(api: Api, kind: str | None) -> None:
    """A page of a stranger can send those without being asked for leave by the browser."""
    headers = {} if kind is None else {"Content-Type": kind}
    answer = api.post("/sessions", content=b'{"template_id": "python"}', headers=headers)
    is_problem(answer, 422)


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    body = json.dumps({"template_id": "python", "event": "x" * (4 * 1024**2)}).encode()
    is_problem(api.post("/sessions", content=body, headers={"Content-Type": "application/json"}), 413)
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    is_problem(api.post("/sessions", content=chunks, headers={"Content-Type": "application/json"}), 413)


def test_pages_of_other_origins_get_no_leave(api: Api) -> None:
    origin = {"Origin": "https://stranger.example"}
    preflight = api.request("OPTIONS", "/sessions", headers={**origin, "Access-Control-Request-Method": "POST"})
    is_problem(preflight, 403)
    assert "access-control-allow-origin" not in preflight.headers
    is_problem(api.post("/sessions", json={"template_id": "python"}, headers=origin), 403)
    is_problem(api.post("/sessions", json={"template_id": "python"}, headers={"Sec-Fetch-Site": "cross-site"}), 403)
    is_problem(api.delete("/sessions/x", headers={"Origin": "null"}), 403)
    seen = api.get("/sessions", headers=origin)
    assert seen.status_code == 200
    assert "access-control-allow-origin" not in seen.headers


def test_a_name_that_is_not_the_servers_is_refused(api: Api) -> None:
    is_problem(api.get("/health", headers={"Host": "rebound.example"}), 421)
    is_problem(api.get("/sessions", headers={"Host": "127.0.0.1.rebound.example"}), 421)
    assert api.get("/health", headers={"Host": "localhost"}).status_code == 200


def test_a_request_that_came_through_a_proxy_needs_a_key(api: Api) -> None:
    is_problem(api.get("/sessions", headers={"X-Forwarded-For": "203.0.113.9"}), 401)


def test_answers_tell_browsers_to_keep_their_hands_off(api: Api) -> None:
    answer = api.get("/sessions")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


def test_a_request_id_is_taken_over_if_it_is_harmless(api: Api) -> None:
    assert api.get("/sessions", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert api.get("/sessions", headers={"X-Request-ID": "a b\t<x>"}).headers["x-request-id"].startswith("req_")


def test_a_rate_is_told_in_each_answer(api: Api) -> None:
    headers = api.get("/sessions").headers
    assert headers["ratelimit-limit"] == "100000"
    assert 0 < int(headers["ratelimit-remaining"]) < 100_000
    assert 0 <= int(headers["ratelimit-reset"]) <= 60


def test_what_is_no_http_gets_no_further(server: Server) -> None:
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    for raw in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET http://other/ HTTP/1.1\r\nHost: other\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=30) as line:
            line.sendall(raw)
            assert line.recv(4096).split(b" ")[1].startswith(b"4")


def test_the_root_says_what_this_is(server: Server) -> None:
    with Api(server.url) as api:
        found = api.get(f"{server.url}/").json()
        assert found["name"] == "ipybox"
        assert found["status"] == "operational"
        page = api.get(f"{server.url}/docs")
        assert (page.status_code, "text/html" in page.headers["content-type"]) == (200, True)
        is_problem(api.get(f"{server.url}/nothing"), 404)
        assert api.get(f"{server.url}/console").status_code == 404


def test_there_is_no_head(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("HEAD", "/api/v1/health")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["allow"], answer.read()) == (405, "GET", b"")
    connection.close()
