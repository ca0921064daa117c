"""``ipybox session``, but for what runs code. Floor: cli."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path, PurePosixPath

from ipybox.cli.outlets import write_all
from ipybox.cli.server_calls import complain, say, say_json, show_table, time_text
from ipybox.cli.session_run import follow, show_logs
from ipybox.control.client.client import AsyncControlClient
from ipybox.control.client.models import SessionInfo
from ipybox.control.client.options import SessionOptions
from ipybox.control.errors import ServerError

_PART = 256 * 1024
_PAGE = 200


async def create(
    client: AsyncControlClient, template: str, options: SessionOptions, *, waits: bool, as_json: bool
) -> None:
    """Makes a session."""
    session = await client.sessions.create(template, **options)
    if waits:
        # Its id comes first: who gives up waiting may want to look at it.
        if not as_json:
            say(session.id)
        session = await (
            await client.attach(session.id, 120.0 + (300.0 if options.get("dependencies") else 0.0))
        ).info()
    if as_json:
        say_json(session)
    elif not waits:
        say(session.id)


async def show_list(
    client: AsyncControlClient,
    *,
    status: Sequence[str] | None,
    template: str | None,
    mode: str | None,
    tags: Mapping[str, str],
    limit: int,
    as_json: bool,
) -> None:
    """Lists sessions."""
    found: list[SessionInfo] = []
    cursor = None
    while len(found) < limit:
        page = await client.sessions.list(
            status=status,
            template_id=template,
            mode=mode,
            tags=tags,
            limit=min(limit - len(found), _PAGE),
            cursor=cursor,
        )
        found += page.items
        cursor = page.next_cursor
        if cursor is None or not page.items:
            break
    if as_json:
        say_json(found)
        return
    show_table(
        ("ID", "STATUS", "MODE", "TEMPLATE", "CREATED", "EXPIRES"),
        [
            (each.id, each.status, each.mode, each.template_id, time_text(each.created_at), time_text(each.expires_at))
            for each in found
        ],
    )


async def show(client: AsyncControlClient, session_id: str, *, as_json: bool) -> None:
    """Shows a session."""
    session = await client.sessions.get(session_id)
    if as_json:
        say_json(session)
        return
    limits, network = session.resource_limit, session.network
    installed = ", ".join(f"{each.name} {each.version}" for each in session.installed_dependencies)
    facts = {
        "id": session.id,
        "status": session.status,
        "why": ": ".join(part for part in (session.status_reason, session.status_detail) if part),
        "mode": session.mode,
        "template": session.template_id,
        "owner": session.owner,
        "limits": f"cpu {limits.cpu}, memory {limits.memory}, disk {limits.disk}, processes {limits.max_processes}",
        "network": ", ".join(network.allowed_domains) or "none",
        "refused": ", ".join(f"{host} ({count})" for host, count in session.denied_hosts.items()),
        "tags": ", ".join(f"{name}={value}" for name, value in session.tags.items()),
        "packages": installed,
        "packages failed": session.dependency_install_error or "",
        "created": time_text(session.created_at),
        "ended": time_text(session.completed_at),
        "expires": "" if session.is_final else time_text(session.expires_at),
    }
    show_table(("", ""), [pair for pair in facts.items() if pair[1]])


async def logs(
    client: AsyncControlClient, id: str, *, follows: bool, after: int, images_dir: Path | None, as_json: bool
) -> int:
    """Shows what an execution has said."""
    execution_id = await _execution(client, id)
    if follows:
        if as_json:
            raise ValueError("--follow and --json don't go together")
        return await follow(client, execution_id, after, images_dir)
    await show_logs(client, execution_id, after, images_dir, as_json=as_json)
    return 0


async def upload(client: AsyncControlClient, session_id: str, file: str, path: str | None, *, as_json: bool) -> None:
    """Writes a file into a workspace."""
    if path is None or path.endswith("/"):
        if file == "-":
            raise ValueError("standard input has no name: say a path in the workspace")
        path = (path or "") + Path(file).name
    source = _stdin() if file == "-" else Path(file)
    written = await client.files.upload(session_id, path, source)
    if as_json:
        say_json(written)
    else:
        complain(f"wrote {written.file_path}, {written.size} bytes", 0)


async def download(client: AsyncControlClient, session_id: str, path: str, file: str | None) -> None:
    """Fetches a file of a workspace."""
    if file == "-":
        async with aclosing(client.files.parts(session_id, path)) as parts:
            async for part in parts:
                await asyncio.to_thread(write_all, 1, part)
        return
    target = await asyncio.to_thread(_target, file, PurePosixPath(path).name)
    size = await client.files.download_to(session_id, path, target)
    complain(f"wrote {target}, {size} bytes", 0)


async def show_files(
    client: AsyncControlClient, session_id: str, path: str, *, recursive: bool, limit: int, as_json: bool
) -> None:
    """Lists files of a workspace."""
    found = await client.files.list(session_id, path, recursive=recursive, limit=limit)
    if as_json:
        say_json(found)
        return
    show_table(
        ("PATH", "KIND", "SIZE", "CHANGED"),
        [(each.path, each.kind, each.size, time_text(each.modified_time)) for each in found],
    )


async def renew(client: AsyncControlClient, session_id: str, timeout: int | None, *, as_json: bool) -> None:
    """Keeps a session for longer."""
    session = await client.sessions.renew(session_id, timeout)
    if as_json:
        say_json(session)
    else:
        say(time_text(session.expires_at))


async def interrupt(client: AsyncControlClient, id: str) -> int:
    """Interrupts an execution, or all of a session."""
    if _is_execution(id):
        count = int(await client.executions.interrupt(id))
    else:
        count = await (await client.attach(id)).interrupt()
    return 0 if count else complain("nothing runs there", 1)


async def end(client: AsyncControlClient, session_ids: Sequence[str], *, forgets: bool) -> int:
    """Ends sessions; all of them, also if one can't be."""
    code = 0
    for each in session_ids:
        try:
            if forgets:
                await client.sessions.delete(each)
            else:
                await client.sessions.terminate(each)
        except ServerError as error:
            if error.status in (0, 401, 403):
                raise
            code = complain(f"{each}: {error}", 125)
    return code


def _target(file: str | None, name: str) -> Path:
    target = Path(file or name)
    return target / name if target.is_dir() else target


def _is_execution(id: str) -> bool:
    return id.startswith("exec_")


async def _execution(client: AsyncControlClient, id: str) -> str:
    if _is_execution(id):
        return id
    page = await client.executions.list(id, limit=1)
    if not page.items:
        raise ValueError(f"nothing has run in {id}")
    return page.items[0].id


async def _stdin() -> AsyncIterator[bytes]:
    while part := await asyncio.to_thread(os.read, sys.stdin.fileno(), _PART):
        yield part
