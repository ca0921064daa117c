"""What can be asked of a server, a method for each route; see :class:`AsyncControlClient`. Floor: control.

All of them raise :class:`ipybox.control.errors.ServerError`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

from ipybox.control.client.decoding import UnexpectedAnswerError, decoded
from ipybox.control.client.event_stream import EventParser
from ipybox.control.client.line import Line
from ipybox.control.client.models import (
    AuditEntry,
    Comparison,
    Event,
    EventPage,
    ExecutionInfo,
    ExecutionTicket,
    Health,
    Identity,
    KeyInfo,
    NewKey,
    Page,
    SessionInfo,
    Synchronised,
    TemplateInfo,
)
from ipybox.control.client.options import CodeOptions, Packages, SessionOptions, TemplateOptions, as_body, only
from ipybox.control.client.wire import id_in_path
from ipybox.control.errors import ServerError

T = TypeVar("T")
_MOST = 200
_QUIET_SECONDS = 45.0
"""A server says every 15 s that a stream is still there."""
_HELD_SECONDS = 5.0
"""A stream that was open for this long was a good one: when it breaks, counting of tries begins anew."""


class Group:
    """Methods that share a line."""

    def __init__(self, line: Line) -> None:
        self._line = line


class AsyncTemplates(Group):
    """What sessions are made from."""

    async def create(self, id: str, **options: Unpack[TemplateOptions]) -> TemplateInfo:
        """Makes one. Without a name it is called as its id is."""
        said = {"name": id, **as_body(only(TemplateOptions, options)), "id": id}
        return await self._line.call("POST", "/templates", _reads(TemplateInfo), body=said, creates=True)

    async def get(self, id: str) -> TemplateInfo:
        """One of them."""
        return await self._line.call("GET", f"/templates/{id_in_path(id)}", _reads(TemplateInfo))

    async def list(self) -> tuple[TemplateInfo, ...]:
        """All of them."""
        found: tuple[TemplateInfo, ...] = ()
        while True:
            params = {"limit": _MOST, "offset": len(found)}
            page = await self._line.call("GET", "/templates", _items(TemplateInfo), params=params)
            found += page
            if len(page) < _MOST:
                return found

    async def update(self, id: str, **options: Unpack[TemplateOptions]) -> TemplateInfo:
        """Changes what is said; the rest stays as it is."""
        said = as_body(only(TemplateOptions, options))
        return await self._line.call("PUT", f"/templates/{id_in_path(id)}", _reads(TemplateInfo), body=said)

    async def delete(self, id: str) -> None:
        """Removes one."""
        await self._line.call("DELETE", f"/templates/{id_in_path(id)}", _nothing)


class AsyncSessions(Group):
    """Sandboxes that somebody works in."""

    async def create(self, template: str, **options: Unpack[SessionOptions]) -> SessionInfo:
        """Makes one, and does not wait until it runs; see :meth:`wait`."""
        said = as_body(only(SessionOptions, options), template_id=template)
        return await self._line.call("POST", "/sessions", _reads(SessionInfo), body=said, creates=True)

    async def get(self, id: str) -> SessionInfo:
        """How it is now."""
        return await self._line.call("GET", f"/sessions/{id_in_path(id)}", _reads(SessionInfo))

    async def wait(self, id: str, timeout: float = 120.0) -> SessionInfo:
        """Waits until it runs or has ended. Raises ``TimeoutError`` if it is still being made after that time."""
        end = time.monotonic() + timeout
        pause = 0.01
        while (session := await self.get(id)).status == "creating":
            if time.monotonic() + pause > end:
                raise TimeoutError(f"session {id} is still being made after {timeout:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return session

    async def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        template_id: str | None = None,
        mode: str | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        cursor: str | None = None,
    ) -> Page[SessionInfo]:
        """A page of those that match all that is said, newest first; ``cursor`` is ``next_cursor`` of the last."""
        params = {
            "status": status if status is None or isinstance(status, str) else [*status],
            "template_id": template_id,
            "mode": mode,
            "tag": [f"{name}:{value}" for name, value in (tags or {}).items()],
            "limit": limit,
            "offset": offset,
            "cursor": cursor,
        }
        return await self._line.call("GET", "/sessions", _page(SessionInfo), params=params)

    async def terminate(self, id: str) -> SessionInfo:
        """Ends it; its record and its files stay for a while."""
        return await self._line.call("POST", f"/sessions/{id_in_path(id)}/terminate", _reads(SessionInfo))

    async def delete(self, id: str) -> None:
        """Ends it, and removes its files and its record."""
        await self._line.call("DELETE", f"/sessions/{id_in_path(id)}", _nothing)

    async def renew(self, id: str, timeout: int | None = None) -> SessionInfo:
        """Keeps it for that many seconds from now, or for its own timeout."""
        path, said = f"/sessions/{id_in_path(id)}/renew", as_body({"timeout": timeout})
        return await self._line.call("POST", path, _reads(SessionInfo), body=said)

    async def install(
        self,
        id: str,
        dependencies: Packages,
        *,
        install_timeout: int | None = None,
        python_package_index_url: str | None = None,
        allow_version_conflicts: bool | None = None,
    ) -> SessionInfo:
        """Installs packages, and returns when they are there or could not be installed.

        What became of it is in ``dependency_install_status`` and ``dependency_install_error``.
        """
        said = as_body(
            {
                "dependencies": dependencies,
                "install_timeout": install_timeout,
                "python_package_index_url": python_package_index_url,
                "allow_version_conflicts": allow_version_conflicts,
            }
        )
        path = f"/sessions/{id_in_path(id)}/dependencies/install"
        return await self._line.call(
            "POST", path, _reads(SessionInfo), body=said, timeout=(install_timeout or 300) + self._line.timeout
        )


class AsyncExecutions(Group):
    """Runs of code."""

    async def execute(self, session_id: str, code: str, **options: Unpack[CodeOptions]) -> ExecutionTicket:
        """Hands over code, and does not wait for it."""
        path = f"/executions/sessions/{id_in_path(session_id)}/execute"
        said = as_body(only(CodeOptions, options), code=code)
        return await self._line.call("POST", path, _reads(ExecutionTicket), body=said, creates=True)

    async def execute_sync(
        self, session_id: str, code: str, *, sync_timeout: float = 300.0, **options: Unpack[CodeOptions]
    ) -> ExecutionInfo:
        """Runs code, and waits for its end, but no longer than ``sync_timeout`` seconds, at least 10.

        After that it is an error of status 408, and the execution goes on.
        """
        return await self._line.call(
            "POST",
            f"/executions/sessions/{id_in_path(session_id)}/execute-sync",
            _reads(ExecutionInfo),
            params={"sync_timeout": sync_timeout},
            body=as_body(only(CodeOptions, options), code=code),
            creates=True,
            timeout=sync_timeout + self._line.timeout,
        )

    async def get(self, id: str) -> ExecutionInfo:
        """How it is now, with all that it wrote."""
        return await self._line.call("GET", f"/executions/{id_in_path(id)}", _reads(ExecutionInfo))

    async def list(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        offset: int | None = None,
        cursor: str | None = None,
    ) -> Page[ExecutionInfo]:
        """A page of a session's, newest first."""
        params = {"limit": limit, "offset": offset, "cursor": cursor}
        path = f"/executions/sessions/{id_in_path(session_id)}/executions"
        return await self._line.call("GET", path, _page(ExecutionInfo), params=params)

    async def events(self, id: str, after: int = 0, limit: int | None = None) -> EventPage:
        """What it said so far, after the event of that number."""
        params = {"after": after, "limit": limit}
        return await self._line.call("GET", f"/executions/{id_in_path(id)}/events", _reads(EventPage), params=params)

    async def stream(self, id: str, after: int = 0) -> AsyncGenerator[Event, None]:
        """What it says, after the event of that number, as it happens and until its ``end``.

        A connection that breaks is made anew, and no event is lost or comes twice.
        """
        path = f"/executions/{id_in_path(id)}/stream"
        patience = self._line.patience()
        while True:
            begun, parser = time.monotonic(), EventParser()
            try:
                async with self._line.open(
                    "GET",
                    path,
                    params={"after": after},
                    headers={"Accept": "text/event-stream"},
                    timeout=max(self._line.timeout, _QUIET_SECONDS),
                ) as response:
                    async for part in response.aiter_bytes():
                        for event in parser.feed(part):
                            if event.seq <= after:
                                continue
                            if event.seq > after + 1:
                                raise ServerError(0, "Lost events", f"after {after} comes {event.seq}")
                            patience.progress()
                            after = event.seq
                            yield event
                            if event.kind == "end":
                                return
                page = await self.events(id, after, limit=1)
                if page.is_final and not page.items:
                    return  # the end was before what was asked for
                raise ServerError(0, "No connection", "the stream ended before the execution did")
            except UnexpectedAnswerError as error:
                raise ServerError(200, "Unexpected answer", f"{error}; is it an ipybox server?") from error
            except ServerError as error:
                if time.monotonic() - begun >= _HELD_SECONDS:
                    patience.progress()
                await asyncio.sleep(patience.wait_for(error))

    async def interrupt(self, id: str) -> bool:
        """Does what Ctrl-C does, and a kill if that does not help. False if it had ended before."""
        return await self._line.call("POST", f"/executions/{id_in_path(id)}/interrupt", _field("interrupted"))


class AsyncKeys(Group):
    """Keys; for those who may administer the server, but for :meth:`me`."""

    async def create(
        self,
        name: str,
        owner: str,
        *,
        scopes: Iterable[str] = ("read", "execute"),
        expires_in: int | None = None,
        max_sessions: int | None = None,
        max_executions: int | None = None,
    ) -> NewKey:
        """Makes one. ``expires_in`` in seconds. Asks once: nobody could find the secret of one that got lost."""
        said = as_body(
            {
                "name": name,
                "owner": owner,
                "scopes": [*scopes],
                "expires_in": expires_in,
                "max_sessions": max_sessions,
                "max_executions": max_executions,
            }
        )
        return await self._line.call("POST", "/keys", _reads(NewKey), body=said)

    async def list(self) -> tuple[KeyInfo, ...]:
        """All of them."""
        return await self._line.call("GET", "/keys", _items(KeyInfo))

    async def me(self) -> Identity:
        """Who this client is for the server."""
        return await self._line.call("GET", "/keys/self", _reads(Identity))

    async def rotate(self, id: str, overlap: int = 0) -> NewKey:
        """A new key in place of one, which stays good for ``overlap`` seconds."""
        path, said = f"/keys/{id_in_path(id)}/rotate", {"overlap": overlap}
        return await self._line.call("POST", path, _reads(NewKey), body=said)

    async def revoke(self, id: str) -> None:
        """A key that counts no more."""
        await self._line.call("DELETE", f"/keys/{id_in_path(id)}", _nothing)


class AsyncServer(Group):
    """The server itself."""

    async def health(self, detailed: bool = False) -> Health:
        """Whether it is well, and with ``detailed`` what it depends on."""
        if not detailed:
            return await self._line.call("GET", "/health", _reads(Health))
        try:
            return await self._line.call("GET", "/health/detailed", _reads(Health), only_once=True)
        except ServerError as error:
            if "dependencies" not in error.problem:
                raise
            return decoded(Health, error.problem)  # not well, and it says why

    async def synchronise(self) -> Comparison:
        """Has it compare its database with what runs, and set right what differs."""
        return (await self._line.call("POST", "/health/sync", _reads(Synchronised))).result

    async def audit(self, *, limit: int | None = None, cursor: str | None = None) -> Page[AuditEntry]:
        """Who did what, newest first."""
        return await self._line.call("GET", "/audit", _page(AuditEntry), params={"limit": limit, "cursor": cursor})


def _reads(kind: type[T]) -> Callable[[Any], T]:
    def read(data: Any) -> T:
        return decoded(kind, data)

    return read


def _items(kind: type[T]) -> Callable[[Any], tuple[T, ...]]:
    def read(data: Any) -> tuple[T, ...]:
        found = data.get("items") if isinstance(data, dict) else data
        if not isinstance(found, list):
            raise UnexpectedAnswerError("the answer should be a list")
        return tuple(decoded(kind, each, f"answer[{number}]") for number, each in enumerate(found))

    return read


def _page(kind: type[T]) -> Callable[[Any], Page[T]]:
    items = _items(kind)

    def read(data: Any) -> Page[T]:
        found = items(data)
        total, cursor = data.get("total"), data.get("next_cursor")
        return Page(
            items=found,
            total=total if isinstance(total, int) else None,
            next_cursor=cursor if isinstance(cursor, str) else None,
        )

    return read


def _field(name: str) -> Callable[[Any], bool]:
    def read(data: Any) -> bool:
        found = data.get(name) if isinstance(data, dict) else None
        if not isinstance(found, bool):
            raise UnexpectedAnswerError(f"the answer should have a {name!r}")
        return found

    return read


def _nothing(data: Any) -> None:
    """For answers in which there is nothing to know."""
