"""What is asked of the services, checked for itself but not yet against what is there. Floor: control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipybox.control.records import Dependency, Json, NetworkRules
from ipybox.control.states import ExecutionKind, SessionMode


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to be made. None is what the template or the server says.

    Attributes:
        id: Its name; None for a new one.
        is_planned: Whether the name was made from an idempotency key, so that one that is there is the answer.
    """

    template_id: str
    id: str | None = None
    is_planned: bool = False
    mode: SessionMode = SessionMode.STATELESS
    timeout: int | None = None
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    max_processes: int | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    event: Json = None
    tags: Mapping[str, str] = field(default_factory=dict)
    network: NetworkRules | None = None
    dependencies: tuple[Dependency, ...] = ()
    install_timeout: int = 300
    fail_on_dependency_error: bool = True
    allow_version_conflicts: bool = False
    python_package_index_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """Code to be run. ``kind`` None is what goes with the language and the session's mode."""

    session_id: str
    language: str
    code: str
    timeout: float
    id: str | None = None
    is_planned: bool = False
    kind: ExecutionKind | None = None
    event: Json = None
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
