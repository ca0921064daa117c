"""Templates. Floor: control."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ipybox.control.db.rows import bounded, record_of, values_of
from ipybox.control.db.tables import templates
from ipybox.control.db.transactions import Transactions
from ipybox.control.errors import ConflictError, RecordNotFoundError
from ipybox.control.records import Page, Template


class Templates:
    """What sessions are made from."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def add(self, template: Template) -> None:
        """Adds one.

        Raises:
            ConflictError: Its id or its name is taken.
        """

        def work(connection: Connection) -> None:
            connection.execute(insert(templates), values_of(template))

        try:
            await self._transactions.write(work)
        except IntegrityError as error:
            raise ConflictError(f"there is a template {template.id!r} or one named {template.name!r}") from error

    async def get(self, id: str) -> Template:
        """Gives one.

        Raises:
            RecordNotFoundError: There is none.
        """
        row = await self._transactions.read(
            lambda connection: connection.execute(select(templates).where(templates.c.id == id)).one_or_none()
        )
        if row is None:
            raise RecordNotFoundError("template", id)
        return record_of(Template, row)

    async def list(self, *, limit: int, offset: int = 0) -> Page[Template]:
        """Gives a part of all, oldest first."""

        def work(connection: Connection) -> Page[Template]:
            total = connection.execute(select(func.count()).select_from(templates)).scalar_one()
            rows = (
                select(templates)
                .order_by(templates.c.created_at, templates.c.id)
                .limit(bounded(limit))
                .offset(bounded(offset))
            )
            return Page(tuple(record_of(Template, row) for row in connection.execute(rows)), total)

        return await self._transactions.read(work)

    async def update(self, template: Template, *, was: datetime | None = None) -> bool:
        """Replaces all of the one with this id but when it was made.

        Args:
            template: The new one.
            was: When it was changed last, as one thinks; None for any time.

        Returns:
            Whether that was so; otherwise nothing is done.

        Raises:
            RecordNotFoundError: There is none.
            ConflictError: Its name is taken.
        """
        values = values_of(template, without=("id", "created_at"))
        is_it = templates.c.id == template.id
        statement = update(templates).where(is_it).values(values)
        if was is not None:
            statement = statement.where(templates.c.updated_at == was)

        def work(connection: Connection) -> bool:
            if connection.execute(statement).rowcount:
                return True
            if connection.execute(select(templates.c.id).where(is_it)).one_or_none() is None:
                raise RecordNotFoundError("template", template.id)
            return False

        try:
            return await self._transactions.write(work)
        except IntegrityError as error:
            raise ConflictError(f"there is another template named {template.name!r}") from error

    async def remove(self, id: str) -> None:
        """Removes one. Sessions that were made from it stay.

        Raises:
            RecordNotFoundError: There is none.
        """
        removed = await self._transactions.write(
            lambda connection: connection.execute(delete(templates).where(templates.c.id == id)).rowcount
        )
        if not removed:
            raise RecordNotFoundError("template", id)
