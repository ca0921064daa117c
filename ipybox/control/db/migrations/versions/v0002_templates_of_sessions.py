"""A session knows what it was made from, whatever becomes of its template. Floor: control."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("sessions", sa.Column("template", TEXT))


def downgrade() -> None:
    op.drop_column("sessions", "template")
