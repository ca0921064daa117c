"""Brings a database to the form that this version knows. Floor: control."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Text, column, inspect, select, table

from ipybox.control.db.transactions import lock
from ipybox.control.errors import ServerSettingsError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "v0002"
"""The newest revision."""
VERSION_TABLE = "ipybox_version"
_SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> bool:
    """Brings it to the newest form, one process at a time, and says whether it had another one.

    Raises:
        ServerSettingsError: A later version of this package has written it.
    """
    lock(connection, "migration")
    found = revision(connection)
    if found == HEAD:
        return False
    from alembic import command  # takes a while, and is needed once in the life of a database
    from alembic.script import ScriptDirectory

    config = configuration(connection)
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise ServerSettingsError(
            "database_url",
            f"the database has the form {found}, which a later version of ipybox gave it; this one knows {HEAD}",
        )
    command.upgrade(config, "head")
    return True


def revision(connection: Connection) -> str | None:
    """The form that it has; None if it is empty."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(column("version_num", Text)).select_from(table(VERSION_TABLE))).scalar()


def configuration(connection: Connection) -> Config:
    """What Alembic's commands take, for a connection in a transaction."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
