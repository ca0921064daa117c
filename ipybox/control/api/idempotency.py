"""Requests that make something, made once however often they are sent. Floor: control.

A key is noted before anything is done. What is made gets a name that follows from the key and the request, so that it
is found again even if the server was killed before it could note the answer, and by nobody who asks for something else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Request
from fastapi.responses import Response
from pydantic import BaseModel

from ipybox.control.access.scopes import Principal
from ipybox.control.api.context import plane_of
from ipybox.control.api.rendering import MEDIA_TYPE, encoded, json_of, rendered
from ipybox.control.errors import ConflictError, RequestRefusedError
from ipybox.control.json_text import JsonText
from ipybox.control.service.ids import now, planned_id
from ipybox.process.teardown import to_the_end

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        pattern=r"^[\x21-\x7e]+$",
        description="A text of your own, such as a UUID. A request with the same key and body has the same answer.",
    ),
]
Made = tuple[int, BaseModel]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a request with a key is to make.

    Attributes:
        id: Follows from the key and the request.
        is_again: Whether somebody has begun with it before, and did not live to answer.
    """

    id: str
    is_again: bool


REPLAYED = "Idempotent-Replayed"
"""Header of an answer that was given before."""


async def once(
    request: Request,
    principal: Principal,
    key: str | None,
    kind: str,
    make: Callable[[Planned | None], Awaitable[Made]],
) -> Response:
    """Answers a request that makes something.

    Args:
        kind: What it makes; goes into the planned id.
        make: Makes it as planned, or with None as it likes; returns status and body.

    Raises:
        ConflictError: The first request with this key is still being worked on.
        RequestRefusedError: The key was used for another request.
    """
    if key is None:
        status, body = await make(None)
        return await rendered(body, status)
    answers = plane_of(request).db.answers
    route = f"{request.method} {request.url.path}"
    asked = hashlib.sha256(f"{route}?{request.url.query}\n".encode() + await request.body()).hexdigest()
    earlier = await answers.reserve(principal.owner, key, route, asked, now())
    if earlier is not None:
        if earlier.request_hash != asked:
            raise RequestRefusedError("this key was used for another request; use a new one", "Idempotency-Key")
        if earlier.status is not None:
            return _as_json(json_of(earlier.body).encode(), earlier.status, {REPLAYED: "true"})
        if _is_worked_on(request, principal.owner, key):
            raise ConflictError("the first request with this Idempotency-Key is still being worked on")
    working = _working(request)
    working.add((principal.owner, key))
    try:
        # With the request, as a key that was released, or forgotten after a day, may come back with another one.
        planned = Planned(planned_id(kind, principal.owner, f"{key}\0{asked}"), earlier is not None)
        status, body = await make(planned)
        content = await encoded(body)
        await to_the_end(answers.complete(principal.owner, key, status, JsonText(content.decode())))
    except (Exception, asyncio.CancelledError):
        await to_the_end(answers.release(principal.owner, key))
        raise
    finally:
        working.discard((principal.owner, key))
    return _as_json(content, status)


def _as_json(content: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def _working(request: Request) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = request.app.state.working
    return found


def _is_worked_on(request: Request, owner: str, key: str) -> bool:
    """Not so after the server was killed in the middle of it: then it is done again, and finds what it had made."""
    return (owner, key) in _working(request)
