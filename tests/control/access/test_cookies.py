"""Cookies that would stop the server for minutes."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ipybox.control.access.cookies import harmless_cookies
from ipybox.control.access.guard import Guard
from ipybox.control.settings import ServerSettings


def test_a_cookie_with_backslashes_gets_no_further_and_others_do() -> None:
    sent = [
        (b"host", b"a\\b"),
        (b"cookie", b'a="\\\\\\\\"; ipybox_console=abc_-; c="d"'),
        (b"Cookie", b'ipybox_console="\\141"'),
        (b"cookie", b"e=f;  g=h"),
    ]
    assert harmless_cookies(sent) == [
        (b"host", b"a\\b"),
        (b"cookie", b' ipybox_console=abc_-; c="d"'),
        (b"Cookie", b""),
        (b"cookie", b"e=f;  g=h"),
    ]


@pytest.mark.asyncio
async def test_no_application_behind_the_guard_sees_a_backslash_in_a_cookie() -> None:
    seen: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["headers"])[b"cookie"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request"}

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "client": None}
    scope["headers"] = [(b"host", b"localhost"), (b"cookie", b'a="' + b"\\" * 60_000 + b'"; b=c')]
    await Guard(application, ServerSettings())(scope, nothing, nothing)
    assert seen == [b" b=c"]
