"""Writes down what requests have changed, or wanted to. Floor: control.

A route says what it is about (see ``context.act``); how it ended is known when the answer leaves.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipybox.control.access.audit import AT_ONCE, AuditLog, entry_of
from ipybox.control.access.guard import address_of
from ipybox.control.access.scopes import Principal
from ipybox.control.api.context import Context

log = logging.getLogger("ipybox.control")


class Auditing:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._note(scope, message["status"])
            await send(message)

        await self._app(scope, receive, noting)

    async def _note(self, scope: Scope, status: int) -> None:
        state = scope["state"]
        action, principal = state.get("action"), state.get("principal")
        if action is None or not isinstance(principal, Principal) or self._context.plane is None:
            return
        audit: AuditLog = self._context.plane.audit
        entry = entry_of(
            principal,
            action,
            state.get("target", ""),
            status,
            address=address_of(scope),
            request_id=state.get("request_id", ""),
            detail=state.get("detail"),
        )
        if action.startswith(AT_ONCE):
            await audit.write(entry)
        else:
            audit.note(entry)
