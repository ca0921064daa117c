"""What Alembic runs, over the connection that it is given. Floor: control."""

from __future__ import annotations

from alembic import context

from ipybox.control.db.migration import VERSION_TABLE
from ipybox.control.db.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
