"""Records to begin with, of which a test names what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ipybox.control.records import (
    ApiKey,
    AuditEntry,
    Execution,
    ExecutionEvent,
    ResourceLimits,
    Session,
    Template,
)
from ipybox.control.states import ExecutionKind, ExecutionStatus, SessionMode, SessionStatus

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def later(seconds: float) -> datetime:
    """So long after ``NOW``."""
    return NOW + timedelta(seconds=seconds)


def a_template(id: str = "t", **fields: Any) -> Template:
    values: dict[str, Any] = {
        "owner": "ann",
        "name": f"Template {id}",
        "image_url": "python:3.11",
        "runtime_type": "python3.11",
        "limits": ResourceLimits(),
        "default_timeout": 300,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Template(id=id, **values | fields)


def a_session(id: str = "s", **fields: Any) -> Session:
    values: dict[str, Any] = {
        "owner": "ann",
        "template_id": "t",
        "mode": SessionMode.STATELESS,
        "status": SessionStatus.RUNNING,
        "limits": ResourceLimits(),
        "timeout": 300,
        "runtime_type": "python3.11",
        "created_at": NOW,
        "updated_at": NOW,
        "last_activity_at": NOW,
        "expires_at": later(300),
    }
    return Session(id=id, **values | fields)


def an_execution(id: str = "e", **fields: Any) -> Execution:
    values: dict[str, Any] = {
        "session_id": "s",
        "owner": "ann",
        "kind": ExecutionKind.HANDLER,
        "language": "python",
        "status": ExecutionStatus.PENDING,
        "code": "def handler(event): return event",
        "timeout": 30.0,
        "created_at": NOW,
    }
    return Execution(id=id, **values | fields)


def an_event(seq: int, text: str = "", **fields: Any) -> ExecutionEvent:
    values: dict[str, Any] = {"execution_id": "e", "kind": "stdout", "data": {"text": text}, "at": NOW}
    return ExecutionEvent(seq=seq, **values | fields)


def a_key(id: str = "k", **fields: Any) -> ApiKey:
    values: dict[str, Any] = {
        "owner": "ann",
        "name": "laptop",
        "secret_hash": "0" * 64,
        "scopes": ("sessions:read", "sessions:write"),
        "created_at": NOW,
    }
    return ApiKey(id=id, **values | fields)


def an_audit_entry(**fields: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "at": NOW,
        "actor": "k",
        "owner": "ann",
        "action": "session.create",
        "target": "s",
        "outcome": 201,
        "address": "127.0.0.1",
        "request_id": "r",
    }
    return AuditEntry(**values | fields)
