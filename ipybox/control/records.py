"""What the control plane knows, as facts without behaviour. All times are aware, in UTC. Floor: control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from ipybox.control.states import ExecutionKind, ExecutionStatus, InstallStatus, Reason, SessionMode, SessionStatus

T = TypeVar("T")
Json = Any
"""What ``json.loads`` gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """Hosts that may be reached, as in :class:`ipybox.sandbox.policy.NetworkPolicy`; empty is no network."""

    allowed_domains: tuple[str, ...] = ()
    denied_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """What a session may use.

    Attributes:
        cpu_cores: Processors.
        memory_bytes: Memory of all of its processes together.
        disk_bytes: Size of its workspace, and of its ``/tmp``, each.
        max_processes: Processes and threads.
    """

    cpu_cores: float = 1.0
    memory_bytes: int = 512 * 1024 * 1024
    disk_bytes: int = 1024 * 1024 * 1024
    max_processes: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """A package that is asked for; ``version`` is a specifier such as ``==1.0``, or empty."""

    name: str
    version: str = ""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledDependency:
    """A package that was installed."""

    name: str
    version: str
    install_location: str
    install_time: datetime
    is_from_template: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What sessions are made from.

    Attributes:
        id: Chosen by who makes it.
        owner: Whose it is; templates can be used by everybody.
        image_url: Kept for clients of the model; nothing is done with it here.
        runtime_type: Such as ``python3.11``.
        limits: What a session gets if it does not ask for less, and never gets more than.
        default_timeout: Seconds for which a session is kept unused, if it does not say.
        preload: Modules that its Python has imported.
        packages: Installed for all of its sessions.
        package_index_url: Where from; None is PyPI.
        network: What its sessions may reach at most.
        warm: Whether its sandbox wall is kept up while no session uses it.
        is_active: Whether new sessions can be made from it.
    """

    id: str
    owner: str
    name: str
    image_url: str
    runtime_type: str
    limits: ResourceLimits
    default_timeout: int
    default_env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    preload: tuple[str, ...] = ()
    packages: tuple[Dependency, ...] = ()
    package_index_url: str | None = None
    network: NetworkRules = field(default_factory=NetworkRules)
    warm: bool = True
    is_active: bool = True
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A sandbox that somebody works in.

    Attributes:
        template: What it was made from, as that was then, whatever became of it; None if an earlier version made it.
        reason: Why it ended, or what last happened to it (``server_restarted`` after it was resumed).
        detail: The same in words.
        timeout: Seconds for which it is kept unused.
        expires_at: When it ends if it is not used until then.
        container_id: Its sandbox; another one after each start of it.
        epoch: How many sandboxes it has had.
        runtime_node: Where it runs.
        denied_hosts: What its code wanted to reach and might not, host to how often.
    """

    id: str
    owner: str
    template_id: str
    template: Template | None = None
    mode: SessionMode
    status: SessionStatus
    reason: Reason | None = None
    detail: str | None = None
    limits: ResourceLimits
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    event: Json = None
    timeout: int
    tags: Mapping[str, str] = field(default_factory=dict)
    network: NetworkRules = field(default_factory=NetworkRules)
    runtime_type: str
    python_package_index_url: str | None = None
    requested_dependencies: tuple[Dependency, ...] = ()
    installed_dependencies: tuple[InstalledDependency, ...] = ()
    install_status: InstallStatus = InstallStatus.COMPLETED
    install_error: str | None = None
    install_timeout: int = 300
    fail_on_dependency_error: bool = True
    allow_version_conflicts: bool = False
    install_started_at: datetime | None = None
    install_completed_at: datetime | None = None
    container_id: str | None = None
    runtime_node: str | None = None
    epoch: int = 0
    denied_hosts: Mapping[str, int] = field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    last_activity_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file of the workspace that an execution has made or changed.

    Attributes:
        path: Relative to the workspace.
        size: Bytes.
        type: ``artifact`` for what it made, ``output`` for what it changed.
        checksum: ``sha256:`` and 64 hexadecimal digits.
    """

    path: str
    size: int
    mime_type: str
    type: str
    created_at: datetime
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What an execution took. None is what could not be measured."""

    duration_ms: float
    cpu_time_ms: float | None = None
    peak_memory_mb: float | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of code.

    Attributes:
        execution_time: Seconds.
        return_value: What a handler returned; ``has_return_value`` tells None from nothing.
        events: How many events there are.
    """

    id: str
    session_id: str
    owner: str
    kind: ExecutionKind
    language: str
    status: ExecutionStatus
    reason: Reason | None = None
    code: str
    timeout: float
    event: Json = None
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    exit_code: int | None = None
    error_name: str | None = None
    error_message: str | None = None
    execution_time: float | None = None
    return_value: Json = None
    has_return_value: bool = False
    metrics: Metrics | None = None
    artifacts: tuple[Artifact, ...] = ()
    truncated: bool = False
    events: int = 0
    retry_count: int = 0
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionEvent:
    """Something that an execution said.

    Attributes:
        seq: Its number, from 1, without gaps; a cursor is the number of the last event one has.
        kind: ``stdout`` and ``stderr`` (``data["text"]``), ``display`` and ``result`` (``data["data"]`` from MIME type
            to text, JSON or base64; ``data["metadata"]``, ``data["display_id"]``, ``data["update"]``), ``error``
            (``data["name"]``, ``data["value"]``, ``data["traceback"]``), ``clear`` (``data["wait"]``), ``truncated``
            (``data["stream"]``), and at last ``end`` (``data["status"]``).
    """

    execution_id: str
    seq: int
    kind: str
    data: Mapping[str, Json]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key, without its secret.

    Attributes:
        id: The part of the key that names it.
        owner: Whose sessions it sees; a rotated key keeps it.
        secret_hash: SHA-256 of the secret part, hexadecimal.
        scopes: See :mod:`ipybox.control.access.scopes`.
        max_sessions, max_executions: How many may be alive at once; None is what the server says.
    """

    id: str
    owner: str
    name: str
    secret_hash: str = field(repr=False)
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    rotated_from: str | None = None
    max_sessions: int | None = None
    max_executions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what.

    Attributes:
        actor: Id of the key, or ``local``.
        action: Such as ``session.create``.
        target: Id of what it was done to.
        outcome: HTTP status of the answer.
    """

    at: datetime
    actor: str
    owner: str
    action: str
    target: str
    outcome: int
    address: str
    request_id: str
    detail: Mapping[str, Json] = field(default_factory=dict)
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentAnswer:
    """What was answered to the first request with a key."""

    owner: str
    key: str
    route: str
    request_hash: str
    status: int | None
    body: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list.

    Attributes:
        total: How many there are in all.
        next_cursor: Where the next part begins; None at the end.
    """

    items: tuple[T, ...]
    total: int
    next_cursor: str | None = None
