"""The first form. Floor: control.

Tables are described as they are at this step, not as ``tables.py`` has them today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "templates",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("image_url", TEXT, nullable=False),
        sa.Column("runtime_type", TEXT, nullable=False),
        sa.Column("limits", TEXT, nullable=False),
        sa.Column("default_timeout", sa.Integer(), nullable=False),
        sa.Column("default_env_vars", TEXT, nullable=False),
        sa.Column("preload", TEXT, nullable=False),
        sa.Column("packages", TEXT, nullable=False),
        sa.Column("package_index_url", TEXT),
        sa.Column("network", TEXT, nullable=False),
        sa.Column("warm", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_templates"),
        sa.UniqueConstraint("name", name="uq_templates_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("template_id", TEXT, nullable=False),
        sa.Column("mode", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("detail", TEXT),
        sa.Column("limits", TEXT, nullable=False),
        sa.Column("env_vars", TEXT, nullable=False),
        sa.Column("event", TEXT, nullable=False),
        sa.Column("timeout", sa.Integer(), nullable=False),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("network", TEXT, nullable=False),
        sa.Column("runtime_type", TEXT, nullable=False),
        sa.Column("python_package_index_url", TEXT),
        sa.Column("requested_dependencies", TEXT, nullable=False),
        sa.Column("installed_dependencies", TEXT, nullable=False),
        sa.Column("install_status", TEXT, nullable=False),
        sa.Column("install_error", TEXT),
        sa.Column("install_timeout", sa.Integer(), nullable=False),
        sa.Column("fail_on_dependency_error", sa.Boolean(), nullable=False),
        sa.Column("allow_version_conflicts", sa.Boolean(), nullable=False),
        sa.Column("install_started_at", TIME),
        sa.Column("install_completed_at", TIME),
        sa.Column("container_id", TEXT),
        sa.Column("runtime_node", TEXT),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("denied_hosts", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("completed_at", TIME),
        sa.Column("last_activity_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_created_at_id", "sessions", ["created_at", "id"])
    op.create_index("ix_sessions_owner_created_at_id", "sessions", ["owner", "created_at", "id"])
    op.create_index("ix_sessions_template_id", "sessions", ["template_id"])
    op.create_index("ix_sessions_status_owner", "sessions", ["status", "owner"])
    op.create_index("ix_sessions_status_completed_at", "sessions", ["status", "completed_at"])
    op.create_table(
        "session_tags",
        sa.Column("session_id", TEXT, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "digest", name="pk_session_tags"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_tags_session_id_sessions", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_session_tags_digest", "session_tags", ["digest"])
    op.create_table(
        "executions",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("session_id", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("language", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("code", TEXT, nullable=False),
        sa.Column("timeout", sa.Double(), nullable=False),
        sa.Column("event", TEXT, nullable=False),
        sa.Column("env_vars", TEXT, nullable=False),
        sa.Column("exit_code", sa.BigInteger()),
        sa.Column("error_name", TEXT),
        sa.Column("error_message", TEXT),
        sa.Column("execution_time", sa.Double()),
        sa.Column("return_value", TEXT, nullable=False),
        sa.Column("has_return_value", sa.Boolean(), nullable=False),
        sa.Column("metrics", TEXT),
        sa.Column("artifacts", TEXT, nullable=False),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("retry_count", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("completed_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_executions_session_id_sessions", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_executions_session_id_created_at_id", "executions", ["session_id", "created_at", "id"])
    op.create_index("ix_executions_status_owner", "executions", ["status", "owner"])
    op.create_table(
        "execution_events",
        sa.Column("execution_id", TEXT, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("data", TEXT, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "seq", name="pk_execution_events"),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name="fk_execution_events_execution_id_executions", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("secret_hash", TEXT, nullable=False),
        sa.Column("scopes", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.Column("rotated_from", TEXT),
        sa.Column("max_sessions", sa.Integer()),
        sa.Column("max_executions", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_owner", "api_keys", ["owner"])
    op.create_table(
        "audit_entries",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("action", TEXT, nullable=False),
        sa.Column("target", TEXT, nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("address", TEXT, nullable=False),
        sa.Column("request_id", TEXT, nullable=False),
        sa.Column("detail", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_entries"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_entries_at", "audit_entries", ["at"])
    op.create_index("ix_audit_entries_owner_id", "audit_entries", ["owner", "id"])
    op.create_index("ix_audit_entries_target_id", "audit_entries", ["target", "id"])
    op.create_table(
        "idempotent_answers",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("route", TEXT, nullable=False),
        sa.Column("request_hash", TEXT, nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("body", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotent_answers"),
    )
    op.create_index("ix_idempotent_answers_created_at", "idempotent_answers", ["created_at"])


def downgrade() -> None:
    for name in (
        "idempotent_answers",
        "audit_entries",
        "api_keys",
        "execution_events",
        "executions",
        "session_tags",
        "sessions",
        "templates",
    ):
        op.drop_table(name)
