"""The tables. A column is named as the field of the record that it holds. Floor: control."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
)

from ipybox.control.db.columns import Choice, EscapedText, Facts, JsonText, LargeJson, Texts, UtcTime
from ipybox.control.records import (
    Artifact,
    Dependency,
    InstalledDependency,
    Metrics,
    NetworkRules,
    ResourceLimits,
    Template,
)
from ipybox.control.states import ExecutionKind, ExecutionStatus, InstallStatus, Reason, SessionMode, SessionStatus

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

templates = Table(
    "templates",
    metadata,
    Column("id", EscapedText, primary_key=True),
    Column("owner", EscapedText, nullable=False),
    Column("name", EscapedText, nullable=False, unique=True),
    Column("image_url", EscapedText, nullable=False),
    Column("runtime_type", EscapedText, nullable=False),
    Column("limits", Facts(ResourceLimits), nullable=False),
    Column("default_timeout", Integer, nullable=False),
    Column("default_env_vars", JsonText, nullable=False),
    Column("preload", Texts, nullable=False),
    Column("packages", Facts(Dependency, many=True), nullable=False),
    Column("package_index_url", EscapedText),
    Column("network", Facts(NetworkRules), nullable=False),
    Column("warm", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", EscapedText, primary_key=True),
    Column("owner", EscapedText, nullable=False),
    Column("template_id", EscapedText, nullable=False),  # its template may be gone by now
    Column("template", Facts(Template)),
    Column("mode", Choice(SessionMode), nullable=False),
    Column("status", Choice(SessionStatus), nullable=False),
    Column("reason", Choice(Reason)),
    Column("detail", EscapedText),
    Column("limits", Facts(ResourceLimits), nullable=False),
    Column("env_vars", JsonText, nullable=False),
    Column("event", LargeJson, nullable=False),
    Column("timeout", Integer, nullable=False),
    Column("tags", JsonText, nullable=False),
    Column("network", Facts(NetworkRules), nullable=False),
    Column("runtime_type", EscapedText, nullable=False),
    Column("python_package_index_url", EscapedText),
    Column("requested_dependencies", Facts(Dependency, many=True), nullable=False),
    Column("installed_dependencies", Facts(InstalledDependency, many=True), nullable=False),
    Column("install_status", Choice(InstallStatus), nullable=False),
    Column("install_error", EscapedText),
    Column("install_timeout", Integer, nullable=False),
    Column("fail_on_dependency_error", Boolean, nullable=False),
    Column("allow_version_conflicts", Boolean, nullable=False),
    Column("install_started_at", UtcTime),
    Column("install_completed_at", UtcTime),
    Column("container_id", EscapedText),
    Column("runtime_node", EscapedText),
    Column("epoch", Integer, nullable=False),
    Column("denied_hosts", JsonText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("last_activity_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)
Index(None, sessions.c.created_at, sessions.c.id)
Index(None, sessions.c.owner, sessions.c.created_at, sessions.c.id)
Index(None, sessions.c.template_id)
Index(None, sessions.c.status, sessions.c.owner)
Index(None, sessions.c.status, sessions.c.completed_at)

session_tags = Table(
    "session_tags",
    metadata,
    Column("session_id", EscapedText, ForeignKey(sessions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),  # of name and value: an index holds no long ones
)
Index(None, session_tags.c.digest)

executions = Table(
    "executions",
    metadata,
    Column("id", EscapedText, primary_key=True),
    Column("session_id", EscapedText, ForeignKey(sessions.c.id, ondelete="CASCADE"), nullable=False),
    Column("owner", EscapedText, nullable=False),
    Column("kind", Choice(ExecutionKind), nullable=False),
    Column("language", EscapedText, nullable=False),
    Column("status", Choice(ExecutionStatus), nullable=False),
    Column("reason", Choice(Reason)),
    Column("code", EscapedText, nullable=False),
    Column("timeout", Double, nullable=False),
    Column("event", LargeJson, nullable=False),
    Column("env_vars", JsonText, nullable=False),
    Column("exit_code", BigInteger),
    Column("error_name", EscapedText),
    Column("error_message", EscapedText),
    Column("execution_time", Double),
    Column("return_value", LargeJson, nullable=False),
    Column("has_return_value", Boolean, nullable=False),
    Column("metrics", Facts(Metrics)),
    Column("artifacts", Facts(Artifact, many=True), nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("events", Integer, nullable=False),
    Column("retry_count", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
)
Index(None, executions.c.session_id, executions.c.created_at, executions.c.id)
Index(None, executions.c.status, executions.c.owner)

execution_events = Table(
    "execution_events",
    metadata,
    Column("execution_id", EscapedText, ForeignKey(executions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", EscapedText, nullable=False),
    Column("data", LargeJson, nullable=False),
    Column("at", UtcTime, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", EscapedText, primary_key=True),
    Column("owner", EscapedText, nullable=False),
    Column("name", EscapedText, nullable=False),
    Column("secret_hash", EscapedText, nullable=False),
    Column("scopes", Texts, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
    Column("rotated_from", EscapedText),
    Column("max_sessions", Integer),
    Column("max_executions", Integer),
)
Index(None, api_keys.c.owner)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("actor", EscapedText, nullable=False),
    Column("owner", EscapedText, nullable=False),
    Column("action", EscapedText, nullable=False),
    Column("target", EscapedText, nullable=False),
    Column("outcome", Integer, nullable=False),
    Column("address", EscapedText, nullable=False),
    Column("request_id", EscapedText, nullable=False),
    Column("detail", JsonText, nullable=False),
    sqlite_autoincrement=True,  # a number is never given twice, as cursors are made of them
)
Index(None, audit_entries.c.at)
Index(None, audit_entries.c.owner, audit_entries.c.id)
Index(None, audit_entries.c.target, audit_entries.c.id)

idempotent_answers = Table(
    "idempotent_answers",
    metadata,
    Column("owner", EscapedText, primary_key=True),
    Column("key", EscapedText, primary_key=True),
    Column("route", EscapedText, nullable=False),
    Column("request_hash", EscapedText, nullable=False),
    Column("status", Integer),
    Column("body", LargeJson, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)
Index(None, idempotent_answers.c.created_at)
