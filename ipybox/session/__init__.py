"""A sandbox to work in: files, commands and code behind walls, without an account. Floor: session."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AsyncSandbox": "ipybox.session.sandbox",
    "CodeResult": "ipybox.session.results",
    "CommandResult": "ipybox.session.results",
    "FileEntry": "ipybox.session.results",
    "RichOutput": "ipybox.session.results",
    "Sandbox": "ipybox.session.blocking",
    "SandboxSettings": "ipybox.session.settings",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from ipybox.session.blocking import Sandbox as Sandbox
    from ipybox.session.results import CodeResult as CodeResult
    from ipybox.session.results import CommandResult as CommandResult
    from ipybox.session.results import FileEntry as FileEntry
    from ipybox.session.results import RichOutput as RichOutput
    from ipybox.session.sandbox import AsyncSandbox as AsyncSandbox
    from ipybox.session.settings import SandboxSettings as SandboxSettings


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ipybox.session' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
