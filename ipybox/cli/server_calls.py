"""What all commands share that ask a server: where it is, what goes wrong, and how answers are shown. Floor: cli."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipybox.control.errors import ControlError, RequestRefusedError, ServerError
from ipybox.testrun.visible_text import visible, visible_line

if TYPE_CHECKING:
    from ipybox.control.client.client import AsyncControlClient

USAGE, TIMEOUT, OURSELVES, INTERRUPTED = 2, 124, 125, 130
_REFUSED = (400, 422)
"""Statuses that say that what was typed makes no sense."""
ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="IPYBOX_SERVER",
        help="Address of the server. Default: http://127.0.0.1:8000. If its certificate is of your own making, "
        "IPYBOX_CA_FILE names a PEM file.",
    ),
]
ServerKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", metavar="KEY", envvar="IPYBOX_API_KEY", help="Key for it; the variable hides it from `ps`."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def ask(
    server: str | None, api_key: str | None, work: Callable[[AsyncControlClient], Awaitable[int | None]]
) -> typer.Exit:
    """Asks a server, and returns how to leave; says on stderr what went wrong."""
    try:
        return typer.Exit(asyncio.run(_ask(server, api_key, work)) or 0)
    except KeyboardInterrupt:
        return typer.Exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return typer.Exit(128 + signal.SIGPIPE)
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        return typer.Exit(complain(str(error), OURSELVES))
    except (RequestRefusedError, ValueError) as error:
        return typer.Exit(complain(str(error), USAGE))
    except (ControlError, OSError) as error:
        is_usage = isinstance(error, ServerError) and error.status in _REFUSED
        return typer.Exit(complain(str(error), USAGE if is_usage else OURSELVES))


async def _ask(
    server: str | None, api_key: str | None, work: Callable[[AsyncControlClient], Awaitable[int | None]]
) -> int | None:
    from ipybox.control.client.client import AsyncControlClient

    async with AsyncControlClient(server, api_key) as client:
        return await work(client)


@contextmanager
def refuse(*errors: type[Exception]) -> Iterator[None]:
    """Turns errors in what was given into the exit code for that."""
    try:
        yield
    except errors as error:
        raise typer.Exit(complain(str(error), USAGE)) from None


def complain(text: str, code: int) -> int:
    """Says on stderr what is wrong, and gives the exit code back. Terminals heed nothing in it."""
    if sys.stderr is not None:
        sys.stderr.write(f"ipybox: {visible(text)}\n")
        sys.stderr.flush()
    return code


def say(text: str) -> None:
    """A line on stdout."""
    if sys.stdout is not None:
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stdout.flush()


def say_json(value: Any) -> None:
    """An answer, or a list of them, as JSON."""
    say(json.dumps(value, default=_plain, indent=2))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under headings, in a table on a terminal, and separated by tabs elsewhere."""
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(escape(_cell(each)) for each in row))
        Console().print(table)
        return
    for row in rows:
        say("\t".join(_cell(each) for each in row))


def time_text(at: datetime | None) -> str:
    """A time for people, in their time zone."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def _cell(value: object) -> str:
    return "" if value is None else visible_line(str(value))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
