"""A typed client, async and sync. Needs ``pip install "ipybox[client]"``. Floor: control."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AsyncControlClient": "ipybox.control.client.client",
    "AsyncExecution": "ipybox.control.client.handles",
    "AsyncSession": "ipybox.control.client.handles",
    "ControlClient": "ipybox.control.client.blocking",
    "Event": "ipybox.control.client.models",
    "Execution": "ipybox.control.client.blocking",
    "ExecutionInfo": "ipybox.control.client.models",
    "RunResult": "ipybox.control.client.models",
    "Session": "ipybox.control.client.blocking",
    "SessionInfo": "ipybox.control.client.models",
    "TemplateInfo": "ipybox.control.client.models",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from ipybox.control.client.blocking import ControlClient as ControlClient
    from ipybox.control.client.blocking import Execution as Execution
    from ipybox.control.client.blocking import Session as Session
    from ipybox.control.client.client import AsyncControlClient as AsyncControlClient
    from ipybox.control.client.handles import AsyncExecution as AsyncExecution
    from ipybox.control.client.handles import AsyncSession as AsyncSession
    from ipybox.control.client.models import Event as Event
    from ipybox.control.client.models import ExecutionInfo as ExecutionInfo
    from ipybox.control.client.models import RunResult as RunResult
    from ipybox.control.client.models import SessionInfo as SessionInfo
    from ipybox.control.client.models import TemplateInfo as TemplateInfo


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ipybox.control.client' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
