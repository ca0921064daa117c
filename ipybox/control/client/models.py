"""What a server says, as facts. Fields that are not known here are ignored. Floor: control.

Words such as a status are plain texts, so that a newer server may have more of them;
:mod:`ipybox.control.states` has those of this version. Times are aware.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Json = Any
"""What ``json.loads`` gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """Hosts that may be reached; empty is no network."""

    allowed_domains: tuple[str, ...] = ()
    denied_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """A package that was asked for; ``version`` is a specifier such as ``==1.0``, or empty."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledDependency:
    """A package that is there."""

    name: str
    version: str
    install_location: str = ""
    install_time: datetime | None = None
    is_from_template: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateInfo:
    """What sessions are made from. Sizes in MiB, ``default_timeout`` in seconds."""

    id: str
    name: str
    owner: str = ""
    image_url: str = ""
    runtime_type: str = ""
    default_cpu_cores: float = 0.0
    default_memory_mb: int = 0
    default_disk_mb: int = 0
    default_timeout: int = 0
    default_env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_processes: int = 0
    preload: tuple[str, ...] = ()
    packages: tuple[Dependency, ...] = ()
    package_index_url: str | None = None
    network: NetworkRules = field(default_factory=NetworkRules)
    warm: bool = False
    is_active: bool = True
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """What a session may use, in the server's words, such as ``1`` processor and ``512Mi``."""

    cpu: str = ""
    memory: str = ""
    disk: str = ""
    max_processes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as it was when the server was asked.

    Attributes:
        status: ``creating``, ``running``, or how it ended: ``completed``, ``failed``, ``timeout``, ``terminated``.
        status_reason, status_detail: Why it is that, as a word and in words.
        timeout: Seconds for which it is kept unused.
        expires_at: When it ends if it is not used until then.
        container_id: Its sandbox; another one after each start of it.
        epoch: How many sandboxes it has had.
        denied_hosts: What its code wanted to reach and might not, host to how often.
    """

    id: str
    template_id: str
    status: str
    mode: str = ""
    owner: str = ""
    status_reason: str | None = None
    status_detail: str | None = None
    resource_limit: ResourceLimits = field(default_factory=ResourceLimits)
    runtime_type: str = ""
    runtime_node: str | None = None
    container_id: str | None = None
    epoch: int = 0
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    event: Json = None
    tags: Mapping[str, str] = field(default_factory=dict)
    network: NetworkRules = field(default_factory=NetworkRules)
    denied_hosts: Mapping[str, int] = field(default_factory=dict)
    timeout: int = 0
    python_package_index_url: str | None = None
    requested_dependencies: tuple[Dependency, ...] = ()
    installed_dependencies: tuple[InstalledDependency, ...] = ()
    dependency_install_status: str = ""
    dependency_install_error: str | None = None
    dependency_install_started_at: datetime | None = None
    dependency_install_completed_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    last_activity_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status not in ("creating", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that an execution made (``type`` is ``artifact``) or changed (``output``)."""

    path: str
    size: int
    mime_type: str = ""
    type: str = ""
    created_at: datetime | None = None
    checksum: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What an execution took; None is what could not be measured."""

    duration_ms: float = 0.0
    cpu_time_ms: float | None = None
    peak_memory_mb: float | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionTicket:
    """An execution that was taken."""

    execution_id: str
    session_id: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInfo:
    """An execution as it was when the server was asked.

    Attributes:
        status: ``pending``, ``running``, or how it ended: ``completed``, ``failed``, ``timeout``, ``crashed``.
        status_reason: Why, as a word.
        timeout: Seconds that it may take.
        execution_time: Seconds that it took.
        truncated: Whether it wrote more than the server keeps.
        return_value: What a handler returned; ``has_return_value`` tells None from nothing.
        events: How many events there are.
    """

    id: str
    session_id: str
    status: str
    status_reason: str | None = None
    kind: str = ""
    language: str = ""
    code: str = field(default="", repr=False)
    timeout: float = 0.0
    event: Json = None
    exit_code: int | None = None
    error_name: str | None = None
    error_message: str | None = None
    execution_time: float | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    return_value: Json = None
    has_return_value: bool = False
    metrics: Metrics | None = None
    artifacts: tuple[Artifact, ...] = ()
    events: int = 0
    retry_count: int = 0
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status not in ("pending", "running")

    @property
    def is_success(self) -> bool:
        """Whether it has ended well."""
        return self.status == "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that an execution said.

    Attributes:
        seq: Its number, from 1, without gaps; a cursor is the number of the last event one has.
        kind: ``stdout``, ``stderr``, ``display``, ``result``, ``error``, ``clear``, ``truncated`` or ``end``.
        data: See :class:`ipybox.control.records.ExecutionEvent`.
    """

    seq: int
    kind: str
    data: Mapping[str, Any]
    at: datetime

    @property
    def text(self) -> str:
        """What it is as text: output, or the text of what is displayed; empty if there is none."""
        found = self.data.get("text") if self.kind in ("stdout", "stderr") else self.content("text/plain")
        return found if isinstance(found, str) else ""

    def content(self, mime_type: str) -> Json:
        """What is displayed, as that type; None if there is no such content, images are base64."""
        shown = self.data.get("data")
        return shown.get(mime_type) if isinstance(shown, dict) else None

    def image(self, mime_type: str = "image/png") -> bytes | None:
        """The image that is displayed; None if there is none."""
        found = self.content(mime_type)
        try:
            return base64.b64decode(found, validate=False) if isinstance(found, str) else None
        except (binascii.Error, ValueError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events after a cursor. ``is_final``: no more will come."""

    items: tuple[Event, ...]
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(ExecutionInfo):
    """An execution that has ended.

    Attributes:
        displays: What it displayed, events of the kinds ``display`` and ``result``.
    """

    displays: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file or directory of a workspace. ``path`` is relative to it, ``kind`` such as ``file`` or ``directory``."""

    name: str
    path: str
    container_path: str = ""
    kind: str = "file"
    size: int = 0
    modified_time: datetime | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """A file that was written; ``checksum`` is ``sha256:`` and 64 hexadecimal digits."""

    session_id: str
    file_path: str
    size: int
    checksum: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key, without its secret."""

    id: str
    owner: str
    name: str
    scopes: tuple[str, ...] = ()
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    rotated_from: str | None = None
    max_sessions: int | None = None
    max_executions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who somebody is for a server. ``key_id`` is ``local`` for who needs no key."""

    key_id: str
    owner: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A new key. ``secret`` is what goes into requests, and is never shown again."""

    key: KeyInfo
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what. ``actor`` is the id of a key, ``outcome`` the HTTP status of the answer."""

    id: int
    at: datetime
    actor: str
    owner: str
    action: str
    target: str
    outcome: int
    address: str = ""
    request_id: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the server is well; ``uptime`` in seconds. The rest is there if details were asked for."""

    status: str
    version: str
    uptime: float
    dependencies: Mapping[str, Any] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    executions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a server set right when it compared its database with what runs: ids of sessions and executions."""

    resumed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    crashed: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronised:
    """The answer that has it."""

    result: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """A part of a list.

    Attributes:
        total: How many there are in all; None if the server does not count them.
        next_cursor: Where the next part begins; None at the end.
    """

    items: tuple[T, ...]
    total: int | None = None
    next_cursor: str | None = None
