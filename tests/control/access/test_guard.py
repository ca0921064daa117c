"""What every request passes first, asked as a client would ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, File, Request, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import get_contextvars

from ipybox.control.access.guard import Guard, is_upload
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.page_headers import API_POLICY, policy_for_page
from ipybox.control.access.rates import RateState
from ipybox.control.access.scopes import LOCAL
from ipybox.control.errors import ConflictError, UnauthenticatedError
from ipybox.control.settings import ServerSettings

NAMED = "https://ide.example.org"
Headers = list[tuple[str, str]]


def application() -> FastAPI:
    router = APIRouter(prefix="/sessions")
    seen: list[Any] = []

    @router.post("")
    async def create(request: Request) -> dict[str, Any]:
        body = await request.body()
        seen.append(body)
        return {"size": len(body), "request_id": get_contextvars().get("request_id")}

    @router.post("/json")
    async def typed(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @router.post("/{id}/files/upload")
    async def upload(id: str, file: UploadFile = File()) -> int:  # noqa: B008
        return len(await file.read())

    @router.get("/{id}")
    async def get(id: str, request: Request) -> dict[str, Any]:
        request.state.principal = LOCAL
        request.state.rate = RateState(limit=5, remaining=4, reset_seconds=1.5)
        return {"id": id}

    @router.get("/{id}/crash")
    async def crash(id: str) -> None:
        raise RuntimeError("hunter2")

    @router.get("/{id}/half")
    async def half(id: str) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("hunter2")

        return StreamingResponse(parts())

    app = FastAPI()
    outer = APIRouter(prefix="/api/v1")
    outer.include_router(router)
    app.include_router(outer)
    app.state.seen = seen

    @app.get("/api/v1/health")
    async def health() -> str:
        return "ok"

    @app.get("/page")
    async def page() -> HTMLResponse:
        html = HTMLResponse("<script>one()</script><script src='/x.js'></script><style>p{}</style>")
        html.headers["Content-Security-Policy"] = policy_for_page(bytes(html.body))
        html.headers["Cache-Control"] = "max-age=60"
        html.headers["X-Request-ID"] = "another"
        return html

    return app


APP = application()


def guarded(app: Any = APP, *, metrics: ServerMetrics | None = None, admit: Any = None, **settings: Any) -> Guard:
    return Guard(app, ServerSettings(**settings), metrics=metrics, admit=admit)


async def ask(
    method: str = "GET",
    path: str = "/api/v1/sessions/a",
    headers: Headers | None = None,
    guard: Guard | None = None,
    **more: Any,
) -> httpx.Response:
    transport = httpx.ASGITransport(guard or guarded())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        return await client.request(method, path, headers=headers or [], **more)


async def raw(guard: Any, *headers: tuple[bytes, bytes], path: str = "/api/v1/sessions", method: str = "POST") -> int:
    """The status of a request that no decent client sends."""
    statuses: list[int] = []
    scope: Scope = {
        "type": "http", "method": method, "path": path, "headers": list(headers), "scheme": "http",
        "client": ("127.0.0.1", 1), "query_string": b"", "root_path": "", "http_version": "1.1",
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await guard(scope, receive, send)
    return statuses[0]


# ---- by which name ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_loopbacks_names_are_served_and_others_are_not() -> None:
    for host in ("localhost", "LOCALHOST.:1", "127.0.0.1:8000", "[::1]:8000"):
        assert (await ask(headers=[("Host", host)])).status_code == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "169.254.169.254"):
        for method in ("GET", "POST", "OPTIONS", "HEAD"):
            assert (await ask(method, headers=[("Host", host)])).status_code == 421
    for host in ("[::1%25lo]", "localhost@evil.example", "", "localhost, evil.example", "0x7f.1"):
        assert (await ask(headers=[("Host", host)])).status_code == 400
    assert (await ask(headers=[("Host", "box.example")], guard=guarded(allowed_hosts=("box.example",)))).is_success


@pytest.mark.asyncio
async def test_two_names_or_none_are_refused() -> None:
    good, evil = (b"host", b"localhost"), (b"host", b"evil.example")
    assert await raw(guarded(), good) == 200
    for headers in ([], [good, evil], [evil, good], [good, good], [good, (b"Host", b"evil.example")]):
        assert await raw(guarded(), *headers) == 400


@pytest.mark.asyncio
async def test_other_headers_do_not_name_the_server() -> None:
    for name in (b"x-forwarded-host", b"forwarded", b"x-host", b"x-original-host"):
        assert await raw(guarded(), (b"host", b"evil.example"), (name, b"localhost")) == 421


@pytest.mark.asyncio
async def test_targets_that_are_no_paths_are_refused() -> None:
    for path in ("http://evil.example/api/v1/sessions", "*", "", "evil.example:443", "/a\0b"):
        assert await raw(guarded(), (b"host", b"localhost"), path=path) == 400


# ---- from which page --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "headers",
    [
        [("Origin", "null")],
        [("Origin", "http://evil.example")],
        [("Origin", "http://localhost:8001")],
        [("Origin", "http://127.0.0.1:8000")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "cross-site"), ("Origin", "http://localhost:8000")],
        [("Sec-Fetch-Site", "same-origin"), ("Origin", "http://evil.example")],
    ],
)
async def test_a_page_of_a_stranger_runs_nothing(headers: Headers) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "application/json",
    ):
        before = len(APP.state.seen)
        answer = await ask("POST", "/api/v1/sessions", [*headers, ("Content-Type", kind)], content=b'{"code": "1"}')
        assert answer.status_code == 403
        assert len(APP.state.seen) == before
    for method in ("PUT", "PATCH", "DELETE", "post", "X"):
        assert (await ask(method, headers=headers)).status_code == 403


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Origin", "http://localhost:8000")],
        [("Sec-Fetch-Site", "same-origin"), ("Origin", "http://localhost:8000")],
        [("Sec-Fetch-Site", "none")],
        [("Sec-Fetch-Site", "cross-site"), ("Origin", NAMED)],
    ],
)
async def test_programs_its_own_pages_and_named_ones_may(headers: Headers) -> None:
    answer = await ask("POST", "/api/v1/sessions", headers, guarded(cors_origins=(NAMED,)), content=b"x")
    assert answer.json()["size"] == 1


@pytest.mark.asyncio
async def test_headers_that_are_sent_twice_are_refused() -> None:
    host = (b"host", b"localhost:8000")
    own, evil = (b"origin", b"http://localhost:8000"), (b"origin", b"http://evil.example")
    same, cross = (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")
    for pair in ((own, evil), (evil, own), (same, cross), (cross, same), (own, own)):
        assert await raw(guarded(), host, *pair) == 400
    assert await raw(guarded(), host, (b"oRiGiN", b"http://evil.example")) == 403


@pytest.mark.asyncio
async def test_browsers_are_told_only_for_named_origins_that_a_page_may() -> None:
    wish = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    guard = guarded(cors_origins=(NAMED,))
    answer = await ask("OPTIONS", headers=[("Origin", NAMED), *wish], guard=guard)
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers.get_list("access-control-allow-origin") == [NAMED]
    assert "POST" in answer.headers["access-control-allow-methods"]
    for origin in ("http://evil.example", "null", "http://localhost:8000"):
        answer = await ask("OPTIONS", headers=[("Origin", origin), *wish], guard=guard)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = await ask(headers=[("Origin", NAMED)], guard=guard)
    assert answer.headers.get_list("access-control-allow-origin") == [NAMED]
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    answer = await ask(path="/nothing", headers=[("Origin", NAMED)], guard=guard)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, NAMED)
    answer = await ask(headers=[("Origin", "http://evil.example")], guard=guard)
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"]  # so that no cache gives a stranger what was for somebody else
    assert "vary" not in (await ask(headers=[("Origin", NAMED)])).headers


@pytest.mark.asyncio
async def test_websockets_are_refused() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await guarded()({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# ---- how large --------------------------------------------------------------------------------------------------


async def chunks(count: int, size: int = 1000) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.asyncio
async def test_bodies_may_be_as_large_as_the_settings_say_and_no_larger() -> None:
    guard = guarded(max_request_bytes=5000)
    assert (await ask("POST", "/api/v1/sessions", guard=guard, content=b"x" * 5000)).json()["size"] == 5000
    assert (await ask("POST", "/api/v1/sessions", guard=guard, content=chunks(5))).json()["size"] == 5000
    for body in (b"x" * 5001, chunks(6)):
        for path in ("/api/v1/sessions", "/api/v1/sessions/json"):
            answer = await ask("POST", path, guard=guard, content=body)
            if path.endswith("json") and answer.status_code == 422:  # the framework has read it and found no JSON
                pytest.fail("a body that is too large was read")
            assert answer.status_code == 413
            assert answer.json()["detail"] == "the body of the request is larger than 5000 bytes"
            body = b"x" * 5001 if isinstance(body, bytes) else chunks(6)
    large = [("Content-Length", "9" * 18)]
    assert (await ask("POST", "/api/v1/sessions", large, guard)).status_code == 413


@pytest.mark.asyncio
async def test_lengths_that_are_none_are_refused() -> None:
    host = (b"host", b"localhost")
    for length in (b"-1", b"+1", b"1, 1", b"0x1", b"1_0", "٣".encode(), b"9" * 30, b""):
        assert await raw(guarded(), host, (b"content-length", length)) == 400
    one = (b"content-length", b"1")
    assert await raw(guarded(), host, one, one) == 400
    assert await raw(guarded(), host, one, (b"transfer-encoding", b"chunked")) == 400


@pytest.mark.asyncio
async def test_files_may_be_larger_than_other_bodies() -> None:
    guard = guarded(max_request_bytes=1000, max_upload_bytes=200_000)
    url = "/api/v1/sessions/a/files/upload"
    assert (await ask("POST", url, guard=guard, files={"file": b"x" * 200_000})).json() == 200_000
    assert (await ask("POST", url, guard=guard, files={"file": b"x" * 400_000})).status_code == 413


def test_only_files_are_files() -> None:
    assert is_upload("POST", "/api/v1/sessions/a/files/upload")
    assert is_upload("PUT", "/api/v1/sessions/a/files/b/c\nd")
    for path in (
        "/api/v1/sessions/a/filesx",
        "/api/v1/sessions//files",
        "/x/api/v1/sessions/a/files",
        "/api/v1/templates",
    ):
        assert not is_upload("POST", path)
    assert not is_upload("GET", "/api/v1/sessions/a/files")


# ---- ids, headers, lines ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_each_request_has_an_id_which_the_client_may_choose() -> None:
    answer = await ask("POST", "/api/v1/sessions", [("X-Request-ID", "a.B-1_")])
    assert answer.headers.get_list("x-request-id") == ["a.B-1_"]
    assert answer.json()["request_id"] == "a.B-1_"
    assert "request_id" not in get_contextvars()
    for wrong in ("", "a b", "a" * 65, "a;b", "a\x1b", "<script>"):
        made = (await ask(headers=[("X-Request-ID", wrong)])).headers["x-request-id"]
        assert made.startswith("req_")
    twice = await ask(headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert twice.headers["x-request-id"].startswith("req_")


@pytest.mark.asyncio
async def test_requests_side_by_side_keep_their_ids() -> None:
    guard = guarded()
    answers = await asyncio.gather(
        *(ask("POST", "/api/v1/sessions", [("X-Request-ID", str(number))], guard) for number in range(20))
    )
    assert [answer.json()["request_id"] for answer in answers] == [str(number) for number in range(20)]


@pytest.mark.asyncio
async def test_every_answer_keeps_browsers_from_doing_more_with_it() -> None:
    for answer in (await ask(), await ask(path="/nothing"), await ask(headers=[("Host", "evil.example")])):
        assert answer.headers["content-security-policy"] == API_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.asyncio
async def test_pages_have_a_policy_of_their_own() -> None:
    answer = await ask(path="/page")
    (policy,) = answer.headers.get_list("content-security-policy")
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert answer.headers["x-request-id"].startswith("req_")
    assert "//" not in policy, "a page loads nothing from elsewhere"
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.asyncio
async def test_each_answer_says_how_many_requests_are_left() -> None:
    headers = (await ask()).headers
    assert (headers["ratelimit-limit"], headers["ratelimit-remaining"], headers["ratelimit-reset"]) == ("5", "4", "2")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "ipybox.access"):
        yield caplog


@pytest.mark.asyncio
async def test_each_request_is_a_line_and_a_number_by_its_route(lines: pytest.LogCaptureFixture) -> None:
    metrics = ServerMetrics("1")
    guard = guarded(metrics=metrics)
    await ask(path="/api/v1/sessions/sess_1?token=hunter2", guard=guard)
    await ask(path="/nothing/x%0aforged", guard=guard)
    await ask(path="/api/v1/health", guard=guard)
    await ask(headers=[("Host", "evil.example")], guard=guard)
    facts = [vars(record) for record in lines.records]
    assert [(each["route"], each["status"]) for each in facts] == [
        ("/api/v1/sessions/{id}", 200),
        ("unmatched", 404),
        ("unmatched", 421),
    ]
    assert (facts[0]["key"], facts[0]["path"], facts[0]["bytes_out"]) == ("local", "/api/v1/sessions/sess_1", 15)
    assert facts[1]["path"] == "/nothing/x\\x0aforged"
    assert "hunter2" not in repr(facts)
    text = metrics.render()[0].decode()
    assert 'ipybox_http_requests_total{method="GET",route="/api/v1/sessions/{id}",status="2xx"} 1.0' in text
    assert "sess_1" not in text


# ---- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_goes_wrong_is_a_problem_and_a_traceback_in_the_log_only(lines: pytest.LogCaptureFixture) -> None:
    answer = await ask(path="/api/v1/sessions/a/crash", headers=[("X-Request-ID", "r")])
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert [record for record in lines.records if record.exc_info]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise {"/crash": RuntimeError("hunter2"), "/conflict": ConflictError("it has ended")}[scope["path"]]

    for path, status in (("/crash", 500), ("/conflict", 409)):
        told = await ask(path=path, headers=[("X-Request-ID", "r")], guard=guarded(app))
        assert told.headers["content-type"] == "application/problem+json"
        assert (told.status_code, told.json()["status"], told.json()["request_id"]) == (status, status, "r")
        assert told.json()["instance"] == path
        assert "hunter2" not in told.text
    assert len([record for record in lines.records if record.exc_info]) == 2  # a conflict is nobody's fault


@pytest.mark.asyncio
async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    with pytest.raises(RuntimeError, match="hunter2"):  # which makes a server close the connection
        await ask(path="/api/v1/sessions/a/half")


@pytest.mark.asyncio
async def test_who_is_not_let_in_is_refused_before_his_body_is_read() -> None:
    async def admit(scope: Scope) -> None:
        raise UnauthenticatedError("send a key")

    read: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(await receive())

    answer = await ask("POST", "/api/v1/sessions", guard=guarded(app, admit=admit), content=b"x" * 1000)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert read == []


@pytest.mark.asyncio
async def test_an_application_that_answers_itself_what_was_too_large_is_overruled() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except Exception:
            await JSONResponse({"detail": "something"}, 400)(scope, receive, send)

    answer = await ask("POST", "/", guard=guarded(app, max_request_bytes=1500), content=chunks(3))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
