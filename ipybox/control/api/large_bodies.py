"""Bodies of requests that are large, read in pieces with turns of others between them. Floor: control."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from ipybox.control.json_scan import JsonScan, JsonScanError
from ipybox.control.json_text import LARGE, JsonText

_DEEPEST = 101
"""Of a body: a hundred levels of what is in it."""
_MOST_PARTS = 150_000
"""Commas and brackets of what is still made into objects."""
_VALUES = ("event", "return_value", "metrics", "artifacts")
"""Fields that take any value, whichever body has them."""


class BodyRoute(APIRoute):
    """A route whose body may be large."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As the framework's, with another way to read JSON."""
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            return await handler(_Request(request.scope, request.receive))

        return handled


class _Request(Request):
    async def json(self) -> Any:
        """As the framework's; of what is large, values with very many parts stay text."""
        if not hasattr(self, "_json"):
            body = await self.body()
            self._json = await _read(body) if len(body) > LARGE else json.loads(body)
        return self._json


async def _read(body: bytes) -> Any:
    text = body.decode()
    scan = JsonScan(text, deepest=_DEEPEST, wants_members=True)
    try:
        for _ in scan:
            await asyncio.sleep(0)
    except JsonScanError as error:
        raise json.JSONDecodeError(str(error), "", 0) from None
    if scan.has_what_is_not_there:
        raise json.JSONDecodeError("must hold finite numbers and whole characters only", "", 0)
    if not text.lstrip().startswith("{"):
        return []  # which is no body, whatever it holds
    found = {}
    for name, place in scan.members.items():
        part = text[place]
        name = json.loads(name)
        if name in _VALUES and len(part) > LARGE:
            found[name] = JsonText(part.replace("\n", " ").replace("\r", " "))
        elif len(part) <= LARGE or part.startswith('"') or _parts(part) <= _MOST_PARTS:
            found[name] = json.loads(part)
        else:  # also where nobody would look at it: what it is can't be told before it is read
            raise json.JSONDecodeError(f"{name[:100]!r} holds too much", "", 0)
        await asyncio.sleep(0)
    return found


def _parts(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")
