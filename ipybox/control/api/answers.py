"""Bodies of answers, made from records. Floor: control."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from ipybox.control.json_text import plain
from ipybox.control.records import (
    ApiKey,
    AuditEntry,
    Execution,
    ExecutionEvent,
    InstalledDependency,
    Session,
    Template,
)

MIB = 1024**2
JsonValue = Annotated[Any, PlainSerializer(plain, when_used="json")]
"""Any value. One that is text is read only by who does not know ``rendering``."""


class Answer(BaseModel):
    """The root of all answers."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """RFC 9457, and the names that clients of the model look for: ``error``, ``message`` and ``detail``."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    error: str
    message: str
    instance: str | None = None
    request_id: str | None = None
    errors: list[dict[str, Any]] | None = None


class Message(Answer):
    """It was done."""

    message: str


class NetworkAnswer(Answer):
    """Hosts that may be reached."""

    allowed_domains: list[str]
    denied_domains: list[str]


class DependencyAnswer(Answer):
    """A package that was asked for."""

    name: str
    version: str


class InstalledAnswer(Answer):
    """A package that is there."""

    name: str
    version: str
    install_location: str
    install_time: datetime
    is_from_template: bool


class TemplateAnswer(Answer):
    """A template."""

    id: str
    owner: str
    name: str
    image_url: str
    runtime_type: str
    default_cpu_cores: float
    default_memory_mb: int
    default_disk_mb: int
    default_timeout_sec: int
    default_timeout: int
    default_env_vars: dict[str, str]
    max_processes: int
    preload: list[str]
    packages: list[DependencyAnswer]
    package_index_url: str | None
    network: NetworkAnswer
    warm: bool
    is_active: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: Template) -> TemplateAnswer:
        """From what the database has."""
        return cls(
            id=record.id,
            owner=record.owner,
            name=record.name,
            image_url=record.image_url,
            runtime_type=record.runtime_type,
            default_cpu_cores=record.limits.cpu_cores,
            default_memory_mb=record.limits.memory_bytes // MIB,
            default_disk_mb=record.limits.disk_bytes // MIB,
            default_timeout_sec=record.default_timeout,
            default_timeout=record.default_timeout,
            default_env_vars=dict(record.default_env_vars),
            max_processes=record.limits.max_processes,
            preload=list(record.preload),
            packages=[DependencyAnswer(name=each.name, version=each.version) for each in record.packages],
            package_index_url=record.package_index_url,
            network=NetworkAnswer(
                allowed_domains=list(record.network.allowed_domains), denied_domains=list(record.network.denied_domains)
            ),
            warm=record.warm,
            is_active=record.is_active,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )


class ResourceAnswer(Answer):
    """What a session may use."""

    cpu: str
    memory: str
    disk: str
    max_processes: int


class SessionAnswer(Answer):
    """A session."""

    id: str
    owner: str
    template_id: str
    mode: str
    status: str
    status_reason: str | None
    status_detail: str | None
    resource_limit: ResourceAnswer
    workspace_path: str
    language_runtime: str
    runtime_type: str
    runtime_node: str | None
    container_id: str | None
    pod_name: str | None
    epoch: int
    env_vars: dict[str, str]
    event: JsonValue
    tags: dict[str, str]
    network: NetworkAnswer
    denied_hosts: dict[str, int]
    timeout: int
    python_package_index_url: str | None
    requested_dependencies: list[DependencyAnswer]
    installed_dependencies: list[InstalledAnswer]
    dependency_install_status: str
    dependency_install_error: str | None
    dependency_install_started_at: datetime | None
    dependency_install_completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    last_activity_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, record: Session) -> SessionAnswer:
        """From what the database has."""
        limits = record.limits
        return cls(
            id=record.id,
            owner=record.owner,
            template_id=record.template_id,
            mode=record.mode.value,
            status=record.status.value,
            status_reason=None if record.reason is None else record.reason.value,
            status_detail=record.detail,
            resource_limit=ResourceAnswer(
                cpu=f"{limits.cpu_cores:g}",
                memory=size_text(limits.memory_bytes),
                disk=size_text(limits.disk_bytes),
                max_processes=limits.max_processes,
            ),
            workspace_path="/workspace",
            language_runtime=record.runtime_type,
            runtime_type=record.runtime_type,
            runtime_node=record.runtime_node,
            container_id=record.container_id,
            pod_name=None,
            epoch=record.epoch,
            env_vars=dict(record.env_vars),
            event=record.event,
            tags=dict(record.tags),
            network=NetworkAnswer(
                allowed_domains=list(record.network.allowed_domains), denied_domains=list(record.network.denied_domains)
            ),
            denied_hosts=dict(record.denied_hosts),
            timeout=record.timeout,
            python_package_index_url=record.python_package_index_url,
            requested_dependencies=[
                DependencyAnswer(name=each.name, version=each.version) for each in record.requested_dependencies
            ],
            installed_dependencies=[_installed(each) for each in record.installed_dependencies],
            dependency_install_status=record.install_status.value,
            dependency_install_error=record.install_error,
            dependency_install_started_at=record.install_started_at,
            dependency_install_completed_at=record.install_completed_at,
            created_at=record.created_at,
            updated_at=record.updated_at,
            started_at=record.started_at,
            completed_at=record.completed_at,
            last_activity_at=record.last_activity_at,
            expires_at=record.expires_at,
        )


class SessionList(Answer):
    """A page of sessions, newest first. ``next_cursor`` is null at the end."""

    items: list[SessionAnswer]
    total: int
    limit: int
    offset: int
    has_more: bool
    next_cursor: str | None


class ExecutionTicket(Answer):
    """An execution that was taken."""

    execution_id: str
    session_id: str
    status: str
    created_at: datetime


class ArtifactAnswer(Answer):
    """A file that an execution made or changed."""

    path: str
    size: int
    mime_type: str
    type: str
    created_at: datetime
    checksum: str


class MetricsAnswer(Answer):
    """What it took; null is what could not be measured."""

    duration_ms: float
    cpu_time_ms: float | None
    peak_memory_mb: float | None
    io_read_bytes: int | None
    io_write_bytes: int | None


class ExecutionAnswer(Answer):
    """An execution, with all that it wrote."""

    id: str
    execution_id: str
    session_id: str
    status: str
    status_reason: str | None
    kind: str
    code: str
    language: str
    timeout: float
    event: JsonValue
    exit_code: int | None
    error_name: str | None
    error_message: str | None
    execution_time: float | None
    stdout: str
    stderr: str
    truncated: bool
    return_value: JsonValue
    has_return_value: bool
    metrics: MetricsAnswer | None
    artifacts: list[ArtifactAnswer]
    events: int
    retry_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def of(cls, record: Execution, output: tuple[str, str]) -> ExecutionAnswer:
        """From what the database has: the execution, its stdout and its stderr."""
        metrics = record.metrics
        return cls(
            id=record.id,
            execution_id=record.id,
            session_id=record.session_id,
            status=record.status.value,
            status_reason=None if record.reason is None else record.reason.value,
            kind=record.kind.value,
            code=record.code,
            language=record.language,
            timeout=record.timeout,
            event=record.event,
            exit_code=record.exit_code,
            error_name=record.error_name,
            error_message=record.error_message,
            execution_time=record.execution_time,
            stdout=output[0],
            stderr=output[1],
            truncated=record.truncated,
            return_value=record.return_value,
            has_return_value=record.has_return_value,
            metrics=None
            if metrics is None
            else MetricsAnswer(
                duration_ms=metrics.duration_ms,
                cpu_time_ms=metrics.cpu_time_ms,
                peak_memory_mb=metrics.peak_memory_mb,
                io_read_bytes=metrics.io_read_bytes,
                io_write_bytes=metrics.io_write_bytes,
            ),
            artifacts=[
                ArtifactAnswer(
                    path=each.path,
                    size=each.size,
                    mime_type=each.mime_type,
                    type=each.type,
                    created_at=each.created_at,
                    checksum=each.checksum,
                )
                for each in record.artifacts
            ],
            events=record.events,
            retry_count=record.retry_count,
            created_at=record.created_at,
            started_at=record.started_at,
            completed_at=record.completed_at,
        )


class ExecutionList(Answer):
    """A page of executions, newest first."""

    items: list[ExecutionAnswer]
    total: int
    limit: int
    offset: int
    has_more: bool
    next_cursor: str | None


class EventAnswer(Answer):
    """Something that an execution said; ``seq`` is a cursor."""

    seq: int
    kind: str
    data: dict[str, Any]
    at: datetime

    @classmethod
    def of(cls, record: ExecutionEvent) -> EventAnswer:
        """From what the database has."""
        return cls(seq=record.seq, kind=record.kind, data=dict(plain(record.data)), at=record.at)


class EventList(Answer):
    """Events after a cursor. ``is_final``: no more will come."""

    items: list[EventAnswer]
    is_final: bool


class Interrupted(Answer):
    """Whether there was something to interrupt."""

    execution_id: str
    interrupted: bool


class FileAnswer(Answer):
    """A file of a workspace."""

    name: str
    path: str
    container_path: str
    kind: str
    size: int
    modified_time: datetime
    etag: str


class FileList(Answer):
    """Files of a workspace."""

    session_id: str
    files: list[FileAnswer]
    count: int


class Uploaded(Answer):
    """A file that was written; ``checksum`` is ``sha256:`` and 64 hexadecimal digits."""

    session_id: str
    file_path: str
    size: int
    checksum: str
    etag: str


class Presigned(Answer):
    """Where a large file can be had for a while."""

    session_id: str
    file_path: str
    presigned_url: str
    size: int


class Health(Answer):
    """Whether it is well; ``uptime`` in seconds."""

    status: Annotated[str, Field(examples=["healthy"])]
    version: str
    uptime: float


class DetailedHealth(Health):
    """The same, with what it depends on, looked at just now."""

    dependencies: dict[str, Any]
    sessions: dict[str, int]
    executions: dict[str, int]


class SyncAnswer(Answer):
    """What a comparison of the database with what runs has found."""

    status: str
    message: str
    result: dict[str, Any]


class KeyAnswer(Answer):
    """A key, without its secret."""

    id: str
    owner: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    rotated_from: str | None
    max_sessions: int | None
    max_executions: int | None

    @classmethod
    def of(cls, record: ApiKey) -> KeyAnswer:
        """From what the database has."""
        return cls(
            id=record.id,
            owner=record.owner,
            name=record.name,
            scopes=list(record.scopes),
            created_at=record.created_at,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            last_used_at=record.last_used_at,
            rotated_from=record.rotated_from,
            max_sessions=record.max_sessions,
            max_executions=record.max_executions,
        )


class Identity(Answer):
    """Who somebody is for the server. ``key_id`` is ``local`` where no key is needed."""

    key_id: str
    owner: str
    scopes: list[str]
    max_sessions: int | None
    max_executions: int | None


class NewKey(Answer):
    """A new key. ``secret`` is shown this once."""

    key: KeyAnswer
    secret: str


class AuditAnswer(Answer):
    """Who did what."""

    id: int
    at: datetime
    actor: str
    owner: str
    action: str
    target: str
    outcome: int
    address: str
    request_id: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, record: AuditEntry) -> AuditAnswer:
        """From what the database has."""
        return cls(
            id=record.id,
            at=record.at,
            actor=record.actor,
            owner=record.owner,
            action=record.action,
            target=record.target,
            outcome=record.outcome,
            address=record.address,
            request_id=record.request_id,
            detail=dict(record.detail),
        )


class AuditList(Answer):
    """A page of the audit log, newest first."""

    items: list[AuditAnswer]
    next_cursor: str | None


def size_text(size: int) -> str:
    """Such as ``512Mi``."""
    gib = 1024 * MIB
    return f"{size // gib}Gi" if size % gib == 0 else f"{size // MIB}Mi"


def _installed(record: InstalledDependency) -> InstalledAnswer:
    return InstalledAnswer(
        name=record.name,
        version=record.version,
        install_location=record.install_location,
        install_time=record.install_time,
        is_from_template=record.is_from_template,
    )
