"""``ipybox keys``. Floor: cli."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipybox.cli.server_calls import OURSELVES, USAGE, complain, say, say_json, show_table, time_text
from ipybox.control.errors import ControlError, RequestRefusedError, ServerSettingsError
from ipybox.control.settings import ServerSettings

if TYPE_CHECKING:
    from ipybox.control.client.client import AsyncControlClient


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A key to be made. ``expires_in`` in seconds."""

    name: str
    owner: str
    scopes: tuple[str, ...]
    expires_in: int | None = None
    max_sessions: int | None = None
    max_executions: int | None = None


async def create(client: AsyncControlClient, request: KeyRequest, *, as_json: bool) -> None:
    """Has a server make it."""
    new = await client.keys.create(
        request.name,
        request.owner,
        scopes=request.scopes,
        expires_in=request.expires_in,
        max_sessions=request.max_sessions,
        max_executions=request.max_executions,
    )
    _tell(new.key.id, new.secret, as_json)


def create_here(
    request: KeyRequest, state_dir: Path | None, database_url: str | None, config: Path | None, *, as_json: bool
) -> typer.Exit:
    """Makes it in the database of a server, which may run or not."""
    try:
        flags = {"state_dir": None if state_dir is None else str(state_dir), "database_url": database_url}
        settings = ServerSettings.load(flags, os.environ, config)
        if not settings.database_url:
            # As a server makes it: what is in there is nobody else's business.
            Path(settings.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        id, secret = asyncio.run(_create(request, settings))
    except (ServerSettingsError, RequestRefusedError) as error:
        return typer.Exit(complain(str(error), USAGE))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "ipybox":
            raise
        return typer.Exit(complain(f'a server\'s keys need {error.name}: pip install "ipybox[server]"', OURSELVES))
    except (ControlError, OSError) as error:
        return typer.Exit(complain(str(error), OURSELVES))
    _tell(id, secret, as_json)
    return typer.Exit(0)


async def show_list(client: AsyncControlClient, *, as_json: bool) -> None:
    """Lists keys."""
    found = await client.keys.list()
    if as_json:
        say_json(found)
        return
    now = datetime.now(UTC)
    show_table(
        ("ID", "NAME", "OWNER", "SCOPES", "STATE", "EXPIRES", "LAST USED"),
        [
            (
                each.id,
                each.name,
                each.owner,
                ",".join(each.scopes),
                "revoked" if each.revoked_at else "expired" if each.expires_at and each.expires_at <= now else "good",
                time_text(each.expires_at),
                time_text(each.last_used_at),
            )
            for each in found
        ],
    )


async def rotate(client: AsyncControlClient, key_id: str, overlap: int, *, as_json: bool) -> None:
    """Makes a key in place of another one."""
    new = await client.keys.rotate(key_id, overlap)
    _tell(new.key.id, new.secret, as_json)


async def _create(request: KeyRequest, settings: ServerSettings) -> tuple[str, str]:
    from ipybox.control.access.keys import KeyRing
    from ipybox.control.db.database import Database

    expires_at = None if request.expires_in is None else datetime.now(UTC) + timedelta(seconds=request.expires_in)
    async with Database(settings.database) as database, KeyRing(database.keys) as ring:
        key, secret = await ring.create(
            name=request.name,
            scopes=request.scopes,
            owner=request.owner,
            expires_at=expires_at,
            max_sessions=request.max_sessions,
            max_executions=request.max_executions,
        )
    return key.id, secret


def _tell(id: str, secret: str, as_json: bool) -> None:
    if as_json:
        say_json({"id": id, "secret": secret})
    else:
        complain(f"this is the key {id}; it is shown this once", 0)
        say(secret)
