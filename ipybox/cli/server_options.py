"""Options of ``ipybox serve``, made of the settings that there are. Floor: cli."""

from __future__ import annotations

import inspect
from dataclasses import Field, fields
from typing import Any

import typer

from ipybox.cli.extra_options import Command, with_options
from ipybox.control.settings import ServerSettings


def with_server_options(command: Command) -> Command:
    """Gives a command that takes ``**flags`` an option for each setting; those that are not given are None."""
    return with_options(command, (_option(each) for each in fields(ServerSettings)))


def _option(field: Field[Any]) -> inspect.Parameter:
    flag = "--" + field.name.replace("_", "-")
    default = field.default
    kind: Any
    if isinstance(default, bool):
        kind, flag = bool | None, f"{flag}/--no-{flag[2:]}"
    elif isinstance(default, tuple):
        kind = list[str] | None
    else:
        kind = type(default) | None
    help = f"{field.metadata['help']} {_notes(field)}"
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, flag, help=help, show_default=False, metavar=_metavar(default)),
        annotation=kind,
    )


def _notes(field: Field[Any]) -> str:
    default = field.default
    parts = [f"IPYBOX_{field.name.upper()}"]
    if isinstance(default, tuple):
        parts.append("repeatable")
    elif isinstance(default, bool):
        parts.append("default: " + ("yes" if default else "no"))
    elif default != "":
        parts.append(f"default: {default}")
    return f"\\[{'; '.join(parts)}]"


def _metavar(default: Any) -> str | None:
    if isinstance(default, bool):
        return None
    return {int: "INTEGER", float: "NUMBER"}.get(type(default), "TEXT")
